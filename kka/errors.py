"""The exceptions that stand for a mistake the user can mend."""

import errno


class KkaError(Exception):
    """Printed as its one sentence, without a traceback: who, wanted, got, and what to do now."""


class BrokenFile(KkaError):
    """A file or folder that kka wrote is missing or broken, and must be written again. The message leaves open by what:
    that depends on who runs kka."""


class StaleFile(KkaError):
    """A file or folder that kka wrote is whole, but what it was made from has changed since."""


class Collapse(KkaError):
    """What a run's own parameters have made is of no use: an adapter that fell apart, a lost loss, nothing to learn
    from. A study gives such a trial up; any other mistake stops the study."""


_MEMORY = ("out of memory", "DefaultCPUAllocator: not enough memory", "STATUS_ALLOC_FAILED")


def out_of_memory(error: Exception) -> bool:
    """Whether the memory of the machine or of its GPU did not suffice; torch says so by a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and tells_of_memory(str(error)))


def tells_of_memory(text: str) -> bool:
    """Whether an error's text says that memory did not suffice."""
    return any(words in text for words in _MEMORY)


def out_of_space(error: Exception) -> bool:
    """Whether a write failed because the disk, a quota or a limit of file sizes is full; libraries in Rust only say so
    in words."""
    return getattr(error, "errno", None) in {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    } or "No space left on device" in str(error)
