"""Blocks between workers of one host with a single copy: the receiver takes them itself.

    sender                                        receiver
                          <--- dials, "hello" ---  knows the sender's address from its hello
    offer(rows, tag)      --- where they lie --->  maps the sender's pool, once
      the blocks are kept                          copies from it into the rows of its receive
    done                  <------ "taken" -------

What is said goes over a socket of its own, whose messages the kernel keeps whole and whose end it
announces: a peer that is killed while it writes leaves nothing half written behind. The bytes go
through nobody's hands but the receiver's, who never writes into memory of another process.

Who touches what, and until when:

| | read by | until |
|---|---|---|
| blocks that were offered | the receiver | it says "taken", or the kernel that it is gone |
| rows of a receive | nobody; the receiver's own thread writes | the receive is done, or abandoned |
| the mapping of a sender's pool | the receiver | the socket is closed, by a death too |

A sender that is killed in the midst of a copy hurts nobody: its memory lives as long as it is
mapped. A receiver that is stopped leaves the offer open, as a UCX rendezvous would.
"""
