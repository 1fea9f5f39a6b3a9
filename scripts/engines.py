"""Where joblib runs the jobs of a suite: processes of this machine, or a cluster of Dask or Ray."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib

SCRIPTS = Path(__file__).parent


@contextlib.contextmanager
def engine(name: str, address: str | None, jobs: int) -> Iterator[int]:
    """
    Choose where joblib runs jobs.

    :param name: "loky", "dask" or "ray"
    :param address: of a cluster that exists, None for a local one
    :param jobs: workers of a local one
    :return: number of jobs at once for joblib, -1 for what a cluster has
    :raises SystemExit: if the engine is not installed, or several threads of a worker would run jobs
    """
    if name == "loky":
        yield jobs
        return
    try:
        with _dask(address, jobs) if name == "dask" else _ray(address, jobs):
            yield -1
    except ModuleNotFoundError as error:
        if error.name not in ("distributed", "ray"):
            raise
        sys.exit(f'--engine {name}: it is not installed. pip install -e ".[{name}]"')


@contextlib.contextmanager
def _dask(address: str | None, jobs: int) -> Iterator[None]:
    """See :func:`engine`."""
    from distributed import Client, LocalCluster, WorkerPlugin
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's, which waits for ever for a job that Dask gave up: its callback is not called."""

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda ended: callback(ended.exception()) if ended.exception() is not None else None)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise out
            return super().retrieve_result_callback(out)

    class Scripts(WorkerPlugin):
        """Gives these scripts to workers, also to those that are there already or come later."""

        name = "scripts of the suite"

        def __init__(self) -> None:
            self.texts = {path.name: path.read_text() for path in SCRIPTS.glob("*.py")}

        def setup(self, worker: Any) -> None:
            folder = Path(worker.local_directory) / "scripts"
            folder.mkdir(parents=True, exist_ok=True)
            for file, text in self.texts.items():
                (folder / file).write_text(text)
            sys.path.insert(0, str(folder))

    joblib.register_parallel_backend("dask", Backend)
    with contextlib.ExitStack() as stack:
        cluster = None if address else stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1))
        client = stack.enter_context(Client(address or cluster))
        client.wait_for_workers(1, timeout=60)
        check_threads(client.nthreads())
        client.register_plugin(Scripts())
        stack.enter_context(joblib.parallel_config("dask"))
        yield


def check_threads(threads: dict[str, int]) -> None:
    """
    :param threads: of each worker of Dask, by its address
    :raises SystemExit: if one has several: its jobs would draw from one another's random numbers
    """
    several = {worker: number for worker, number in threads.items() if number > 1}
    if several:
        worker, number = several.popitem()
        sys.exit(
            f"--address: worker {worker} has {number} threads, and jobs of one process share its random numbers. Start it "
            f"with `dask worker --nworkers {number} --nthreads 1`"
        )


@contextlib.contextmanager
def _ray(address: str | None, jobs: int) -> Iterator[None]:
    """See :func:`engine`."""
    import ray
    from ray.util.joblib.ray_backend import RayBackend

    class Backend(RayBackend):
        """Ray's, whose pool calls back as each job ends: rows are kept at once."""

        supports_return_generator = True

    joblib.register_parallel_backend("ray", Backend)
    # "local": without an address Ray would join whatever cluster runs on this machine
    sent = {"working_dir": str(SCRIPTS)}
    cpus = None if address else jobs
    ray.init(address=address or "local", num_cpus=cpus, runtime_env=sent, log_to_driver=False)
    try:
        with joblib.parallel_config("ray", ray_remote_args={"max_restarts": 3, "max_task_retries": 3}):
            yield
    finally:
        ray.shutdown()
