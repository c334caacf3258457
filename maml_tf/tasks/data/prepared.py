"""Data sets that TensorFlow Datasets has prepared, or may download."""

from maml_tf import arguments


def open_builder(name, data_dir=None, download=False):
    """Opens a data set of TensorFlow Datasets.

    Args:
        name: str, as `tfds.builder` takes it.
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default
            (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        download: bool, whether to download and prepare the data where they are not there.

    Returns:
        A prepared `tfds.core.DatasetBuilder`.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there and `download` is False.
        TypeError: `name` or `data_dir` is no text, or `download` neither True nor False.
        ValueError: there is no data set of that name.
    """
    check(name, data_dir, download)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data set {name!r} is read through TensorFlow Datasets, which could not be "
            f'imported ({error}). Install it with: pip install "maml_tf[datasets]"'
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"Expected the name of a data set of TensorFlow Datasets. Received: {name!r}, which is "
            "none. Choose one of `tfds.list_builders()`."
        ) from None
    if not builder.is_prepared():
        if not download:
            where = "" if data_dir is None else f"data_dir={str(data_dir)!r}, "
            raise FileNotFoundError(
                f"Expected the data set {name!r} in {builder.data_path}. Found none there. Give "
                "the `data_dir` that holds it, or `download=True`, or get it with: python -c "
                f'"import tensorflow_datasets as tfds; tfds.load({name!r}, {where}download=True)"'
            )
        builder.download_and_prepare()
    return builder


def check(name, data_dir=None, download=False):
    """Checks the arguments of `open_builder`, before anything is imported or looked for."""
    arguments.path("name", name, "the name of a data set of TensorFlow Datasets")
    if data_dir is not None:
        arguments.path("data_dir", data_dir, "the directory of TensorFlow Datasets")
    arguments.boolean("download", download)
