"""Programs that begin where TensorFlow is imported already, which takes seconds of each process.

`Parent(imports)` starts a new Python, which imports once and forks for every program. A program
therefore sees what a process of its own would see: its arguments, environment, folder, threads,
signals and exit status, a TensorFlow that has not begun to compute, and nothing that the tests
changed. As a program, `python forks.py IMPORTS` is the parent.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[1]


class Parent:
    """A process that has imported, and forks.

    Args:
        imports: str, the statements that it executes once.
        environment: dict, beside that of this process.
    """

    def __init__(self, imports, environment=None):
        self._process = subprocess.Popen(
            [sys.executable, __file__, imports],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code, *arguments, folder=ROOT):
        """Runs a program as `python -c CODE ARGUMENT...` would, in `folder`.

        Returns:
            `subprocess.CompletedProcess` with `stdout` and `stderr`.
        """
        with tempfile.TemporaryDirectory() as place:
            request = [code, [str(a) for a in arguments], str(folder), place]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            said = [(pathlib.Path(place) / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(["-c", *request[1]], status, *said)

    def close(self):
        """Ends the parent; its children have ended."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main(imports):
    """Answers each request on the standard input with an exit status."""
    sys.path.insert(0, str(ROOT))
    # What is imported may print, and the answers are read from here.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    exec(imports, {})
    for request in sys.stdin:
        child = os.fork()
        if not child:
            _become(*json.loads(request))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, file=answers, flush=True)


def _become(code, arguments, folder, place):
    """Runs the program in this child and ends it."""
    status = 1
    try:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(os.path.join(place, name), os.O_WRONLY | os.O_CREAT), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.argv = ["-c", *arguments]
        # A shell has what it starts in the background ignore Ctrl-C, and with it these tests.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not isinstance(ended.code, (int, type(None))):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
