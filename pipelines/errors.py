"""What can go wrong in the pipeline, in four families; the caller acts on the class, never on the text."""


class PipelineError(Exception):
    """Base of the families. `code` is stable and safe to store, log and show."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class Refused(PipelineError):
    """The photo cannot be used and its owner can mend that: show the advice that belongs to `code`."""


class Retryable(PipelineError):
    """Nothing is wrong with the work itself: give it back to the queue and try again."""


class Final(PipelineError):
    """Trying again gives the same answer: fail the shot and tell the operator."""


class EngineBroken(PipelineError):
    """The engine of this process makes no picture any more: give back what it holds and end the process."""
