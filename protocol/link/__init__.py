"""The control session: pure machine in `session.py`, ZeroMQ around it in `listener.py` and
`dialer.py`."""
