"""mini-ImageNet as a data set of TensorFlow Datasets."""

import os
import pathlib
import shutil

import numpy as np
import tensorflow_datasets as tfds

from maml_tf.tasks import class_lists
from maml_tf.tasks.data import imagenet_source, mini_imagenet_staging, packed

_DESCRIPTION = """
100 classes of ImageNet (ILSVRC 2012) with 600 images each, 84x84 in colour, in the split of Ravi &
Larochelle: the classes of train (64), validation (16) and test (20) are disjoint. Images are
stored class after class.
"""

_CITATION = """
@inproceedings{ravi2017optimization,
  title = {Optimization as a Model for Few-Shot Learning},
  author = {Sachin Ravi and Hugo Larochelle},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
}
"""


class MiniImagenet(tfds.core.GeneratorBasedBuilder):
    """Prepares mini-ImageNet from images of ImageNet; see `maml_tf.tasks.load_mini_imagenet`.

    Args:
        source: path or None, the images; None takes the `manual_dir` of TensorFlow Datasets.
        csv_dir: path or None, folder of the three lists; None looks for them in `source`.
        **kwargs: of `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.

    Example:
        >>> builder = MiniImagenet(data_dir="data")
        >>> config = tfds.download.DownloadConfig(manual_dir="ILSVRC/Data/CLS-LOC/train")
        >>> builder.download_and_prepare(download_config=config)
        >>> builder.as_dataset(split="test").element_spec["image"].shape
        TensorShape([84, 84, 3])
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put images of ImageNet into `manual_dir`: the class folders of mini-ImageNet (n01532829/*.jpg);
    or Ravi & Larochelle's images with train.csv, val.csv and test.csv; or ImageNet's training
    images in class folders; or ILSVRC2012_img_train.tar or its inner tars. With the three csv
    files beside them, ImageNet's images are chosen as published.
    """

    def __init__(self, *, source=None, csv_dir=None, **kwargs):
        super().__init__(**kwargs)
        self._source = source
        self._csv_dir = csv_dir
        # Outside the folder that TensorFlow Datasets removes when something fails.
        root = pathlib.Path(os.fspath(self.data_dir_root)).expanduser()
        self._staging = root / self.name / f".staging-{self.version}"

    def _info(self):
        names = [wnid for part in class_lists.load(self.name).values() for wnid in part]
        size = mini_imagenet_staging.SIZE
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=names),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            # Episodes are drawn by class, and neighbours on disk are read together.
            disable_shuffling=True,
        )

    def download_and_prepare(self, **kwargs):
        """Prepares the data set, as every builder does, then removes the resized images."""
        super().download_and_prepare(**kwargs)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _split_generators(self, dl_manager):
        mini_imagenet_staging.check_pillow()
        bar = tfds.core.utils.tqdm
        parts = class_lists.load(self.name)
        pictures = imagenet_source.find(
            dl_manager.manual_dir if self._source is None else self._source,
            parts,
            mini_imagenet_staging.IMAGES,
            self._csv_dir,
            lambda classes: bar(classes, desc="Looking for images", unit=" classes"),
        )
        staged = mini_imagenet_staging.stage(pictures, self._staging, bar)
        return {
            part: self._generate_examples([(w, staged[w], pictures[w]) for w in wnids])
            for part, wnids in parts.items()
        }

    def _generate_examples(self, classes):
        """Yields the images of `classes`, of which one at a time is in memory."""
        key = 0
        for wnid, path, pictures in classes:
            for image, picture in zip(packed.read_array(path), pictures, strict=True):
                yield key, {"image": image, "label": wnid, "file_name": picture.name}
                key += 1
