"""Transport over UCX: shared memory on one host, RDMA, NVLink or TCP where UCX finds them."""

from baton.kvtransfer.ucx.transport import UcxTransport

__all__ = ["UcxTransport"]
