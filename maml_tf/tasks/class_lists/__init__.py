"""The published class splits of few-shot image sets: facts, one JSON file a set.

`mini_imagenet`: Ravi & Larochelle 2017, WordNet ids. `cifar_fs`: Bertinetto et al. 2019, and
`fc100`: Oreshkin et al. 2018, fine labels of CIFAR-100. `omniglot_vinyals`: Vinyals et al. 2016 in
the lists that Snell et al. 2017 published, by alphabet: the last four characters of Gurmukhi, named
one by one as TensorFlow Datasets does, are for test, the others of that alphabet for training.
"""

import importlib.resources
import json

from maml_tf import arguments


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
    files = importlib.resources.files(__name__)
    known = sorted(f.name.removesuffix(".json") for f in files.iterdir() if f.name.endswith("json"))
    arguments.choice("name", name, known)
    return json.loads((files / f"{name}.json").read_text(encoding="utf-8"))
