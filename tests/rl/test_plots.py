"""The figure of paths: what is written on it is whole."""

import numpy as np
import pytest

pytestmark = pytest.mark.tf_agents


def test_titles_and_names_of_axes_are_within_the_figure():
    from maml_tf.rl import plots

    paths, masks = [np.zeros((2, 3, 2))] * 4, [np.ones((2, 3))] * 4
    figure = plots.navigation_paths(paths, masks, [0.1, 0.4])
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes]
    assert [title.get_text() for title in titles][:2] == ["before", "after 1 step"]
    written = [*titles, figure.axes[0].xaxis.label, figure.axes[0].yaxis.label]
    for box in (text.get_window_extent() for text in written):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
