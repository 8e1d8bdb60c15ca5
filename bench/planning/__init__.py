"""Planning before hardware is bought: which workers, how many of which role; and how right it is."""
