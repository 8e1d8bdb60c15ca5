"""Moving KV blocks: the hand-off state machine, copy planning, transports."""
