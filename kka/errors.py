"""The one exception that stands for a mistake the user can mend."""


class KkaError(Exception):
    """Printed as its one sentence, without a traceback: who, wanted, got, and what to do now."""
