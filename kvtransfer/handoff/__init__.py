"""The hand-off, one pure machine per side: events in, actions out. No sockets, no clock, no torch.

    sender (prefill worker)            receiver (decode worker)

    OPEN   computing, sending          RESERVING  asked the pool
     | all sent, grant live             | Reserved
    SEALED awaiting the Ack            RESERVED   no session with the sender yet
     | Ack                              | session
    DONE                               GRANTED    receives posted, Grant told
                                        | Sealed, and every receive complete
    any --failure--> CLOSING           ADMITTED
      sends still read blocks          any --failure--> DRAINING
     | last one complete                 receives may still write: blocks quarantined
    DONE                                | last one complete, or the sender's process is gone
                                       DONE
"""
