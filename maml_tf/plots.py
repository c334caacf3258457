"""Figures."""


def _figure(*args, **kwargs):
    from matplotlib.figure import Figure

    return Figure(*args, **kwargs)


def error_against_steps(results, ylabel=None):
    fig = _figure()
    ax = fig.subplots()
    for name, r in results.items():
        ax.plot(r.mean, label=name)
    ax.legend()
    return fig


def learning_curve(rows, metric):
    fig = _figure()
    ax = fig.subplots()
    ax.plot([r["val_" + metric] for r in rows])
    return fig
