"""The published class splits of few-shot image sets: facts, one JSON file a set.

`mini_imagenet`: Ravi & Larochelle 2017, WordNet ids. `cifar_fs`: Bertinetto et al. 2019, and
`fc100`: Oreshkin et al. 2018, fine labels of CIFAR-100. `omniglot_vinyals`: Vinyals et al. 2016 in
the lists that Snell et al. 2017 published, by alphabet: the last four characters of Gurmukhi, named
one by one as TensorFlow Datasets does, are for test, the others of that alphabet for training.
`mini_imagenet_words` is no split: what the WordNet ids mean.
"""

import importlib.resources
import json

from maml_tf import arguments

_FOLDER = importlib.resources.files(__name__)


def load(name):
    """Loads a published split.

    Args:
        name: "mini_imagenet", "cifar_fs", "fc100" or "omniglot_vinyals".

    Returns:
        A dict of lists of class names for "train", "validation" and "test", in the published
        order, as `splits.by_name` takes it; of alphabets and characters where it is Omniglot's.

    Raises:
        ValueError: there is no list of that name.

    Example:
        >>> {part: len(names) for part, names in load("mini_imagenet").items()}
        {'train': 64, 'validation': 16, 'test': 20}
    """
    files = [f.name for f in _FOLDER.iterdir() if f.name.endswith(".json")]
    known = sorted(f.removesuffix(".json") for f in files if not f.endswith("_words.json"))
    arguments.choice("name", name, known)
    return _read(name)


def words():
    """What the classes of mini-ImageNet are called in English, for people who read figures.

    Returns:
        A dict of str by WordNet id, no two of them the same, in the order of the split.

    Example:
        >>> words()["n01930112"]
        'nematode'
    """
    return _read("mini_imagenet_words")


def _read(name):
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
