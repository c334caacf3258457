"""What few-shot episodes are asked for: how many classes, examples and tasks, of which seed.

All image families take these settings as options, and here alone is said what they mean.
"""

import dataclasses
import inspect

from maml_tf import arguments
from maml_tf.tasks import streams

# The smallest number that makes sense; `seed` may be any integer of 64 bits.
_LEAST = {
    "ways": 1,
    "shots": 1,
    "queries": 1,
    "test_ways": 1,
    "test_shots": 1,
    "test_queries": 1,
    "meta_batch": 1,
    "start": 0,
    "validation_tasks": 1,
    "test_tasks": 1,
}
_MAY_BE_NONE = ("queries", "test_ways", "test_shots", "test_queries")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes of training, validation and test: N-way K-shot, by the same names everywhere.

    A task has N classes, K support examples of each to adapt to, and query examples of each that
    its loss and its accuracy are taken on. In validation and test these numbers may be others than
    in training. A family of tasks takes all of this as options, some with defaults of its own.

    Attributes:
        ways: int, N, classes a task.
        shots: int, K, support examples a class.
        queries: int or None, query examples a class in training; None stands for `shots`.
        test_ways: int or None, N in validation and test; None stands for `ways`.
        test_shots: int or None, K in validation and test; None stands for `shots`.
        test_queries: int or None, query examples there; None stands for `queries`.
        meta_batch: int, T, tasks a batch, in all three data sets.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first training batch: a training resumed after `n` steps takes
            `start=n` and sees what it would have seen. Validation and test do not depend on it.
        validation_tasks: int, tasks in `validation`, rounded up to whole batches.
        test_tasks: int, tasks in `test`, rounded up to whole batches.

    Raises:
        TypeError: a number or `seed` is not an integer.
        ValueError: a number is too small, or `seed` does not fit 64 bits.

    Example:
        >>> few = Episodes(ways=20, shots=5, test_ways=5)
        >>> few.of("test")["ways"], few.of("test")["shots"], few.of("test")["queries"]
        (5, 5, 15)
    """

    ways: int = 5
    shots: int = 1
    queries: int | None = 15
    test_ways: int | None = None
    test_shots: int | None = None
    test_queries: int | None = None
    meta_batch: int = 4
    seed: int = 0
    start: int = 0
    validation_tasks: int = 600
    test_tasks: int = 600

    def __post_init__(self):
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                # Whatever integer it came as, it is Python's own from here on.
                object.__setattr__(self, name, arguments.integer(name, value, least))
        object.__setattr__(self, "seed", streams.check_seed(self.seed))

    @classmethod
    def asked_of(cls, family, options, **own):
        """The episodes that a call of a task family asked for.

        Args:
            family: the function, whose parameters a misspelled option may have meant.
            options: dict, what it was given as `**episodes`.
            **own: what it takes as parameters of its own, and its defaults where they differ from
                those here. `options` hold where both have a name.

        Returns:
            An `Episodes`.

        Raises:
            TypeError: `options` hold a name that is none of an episode's, or as `Episodes`.
            ValueError: as `Episodes`.
        """
        named = [
            name
            for name, parameter in inspect.signature(family).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        settings = [field.name for field in dataclasses.fields(cls)]
        known = [*named, *(name for name in settings if name not in named)]
        arguments.known_options(family.__name__, options, known)
        return cls(**{**own, **options})

    def of(self, part):
        """The arguments of `sampling.episodes` for one of the three data sets.

        Args:
            part: "train", "validation" or "test".

        Returns:
            A dict of `ways`, `shots`, `queries`, `meta_batch`, `seed`, and `start` for training,
            `tasks` and `stream` for the other two.
        """
        queries = self.shots if self.queries is None else self.queries
        both = {"meta_batch": self.meta_batch, "seed": self.seed}
        if part == "train":
            sizes = {"ways": self.ways, "shots": self.shots, "queries": queries}
            return {**sizes, **both, "start": self.start}
        held_out = {
            "ways": self.ways if self.test_ways is None else self.test_ways,
            "shots": self.shots if self.test_shots is None else self.test_shots,
            "queries": queries if self.test_queries is None else self.test_queries,
        }
        tasks, stream = {
            "validation": (self.validation_tasks, streams.VALIDATION),
            "test": (self.test_tasks, streams.TEST),
        }[part]
        return {**held_out, **both, "tasks": tasks, "stream": stream}
