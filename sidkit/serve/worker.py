"""A worker process whose death its supervisor notices at once."""

from __future__ import annotations

from uvicorn.supervisors.multiprocess import Process


class Worker(Process):
    """The supervisor asks each worker in turn whether it lives, and waits up to a minute for the answer.

    It would wait as long for a worker that is killed meanwhile, and look after no other, because it holds both ends of the
    pipe. Here the worker has its end alone: it closes when the worker dies, which ends the wait.
    """

    def start(self) -> None:
        """Start the process."""
        super().start()
        self.child_conn.close()
