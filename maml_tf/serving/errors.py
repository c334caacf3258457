"""The error of a server that does not answer."""


class ServingError(RuntimeError):
    """What the server answered when it could not answer, or that it could not be reached.

    Attributes:
        code: str, gRPC's name of the status, such as "INVALID_ARGUMENT", or HTTP's number. Of
            both protocols: "UNAVAILABLE" for a server that cannot be reached or dropped the
            connection, "DEADLINE_EXCEEDED" for none within the timeout, and "INTERNAL" for an
            answer that is not TensorFlow Serving's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
