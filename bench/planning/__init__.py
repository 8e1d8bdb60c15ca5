"""Planning before hardware is bought: which workers, how many of which role; how right it was."""
