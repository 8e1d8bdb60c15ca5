"""What `baton bench transfer` is made of: two processes that move blocks, in one network or two."""
