"""The hand-off, one pure machine per side: events in, actions out. No sockets, no clock, no torch.

    sender                              receiver

    OPEN   computing, sending           RESERVING  asked the pool
     | all sent, grant live              | Reserved
    SEALED awaiting the Ack             RESERVED   no session with the sender yet
     | Ack                               | session
    DONE                                GRANTED    receives posted, Grant told
                                         | Sealed, and every receive complete
    any --failure--> CLOSING            VERIFYING  only with checksums
      sends still read blocks            | all as the sender had them
     | last one complete                ADMITTED
    DONE
                                        any --failure--> DRAINING
                                          receives may still write: blocks quarantined
                                         | last one complete, or the sender's process is gone
                                        DONE

A prefill, a loan of cached blocks and the migration of a running request are all this one
hand-off; they differ in where the sender's blocks come from and in what the receiver does with
them (`Admit` runs the request, `AdoptBlocks` only enters them into the prefix cache).
"""
