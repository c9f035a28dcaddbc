import contextlib
import gc
import http.client
import os
import platform
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import dask
import psutil
import pytest
import threadpoolctl
from distributed import Client, LocalCluster, Security
from makers import Listener

from featstore.environment import DISTRIBUTION, available_cores
from featstore.errors import FitError, SchedulerError
from featstore.parallel import cluster as parallel
from featstore.parallel.task_pool import TaskPool, TaskResult
from featstore.progress import SILENT


def run_tasks(function, tasks, n_jobs=None, progress=SILENT, **options):
    with TaskPool(n_jobs, None, {}, progress) as pool:
        return pool.run(function, tasks, **options)


def test_in_this_process_errors_are_kept_beside_results():
    def task(x):
        if x == 2:
            raise FitError("two")
        return x, os.getpid()

    received = []
    results = run_tasks(
        task, [(1,), (2,), (3,)], n_jobs=1, done=lambda index, result: received.append(index)
    )
    assert [result.value for result in results] == [(1, os.getpid()), None, (3, os.getpid())]
    assert str(results[1].error) == "two"
    assert received == [0, 1, 2]


@pytest.mark.parametrize(
    ("n_tasks", "options"), [(1, {}), (0, {}), (5, {"is_quick": True}), (5, {"n_jobs": 1})]
)
def test_what_is_not_worth_workers_needs_no_cluster(n_tasks, options, monkeypatch):
    monkeypatch.setattr(parallel, "local_pool", lambda *args, **more: pytest.fail("a cluster"))
    assert run_tasks(os.getpid, [()] * n_tasks, **options) == [TaskResult(os.getpid())] * n_tasks


def test_as_many_tasks_go_on_as_there_are_cores():
    for n_jobs, expected in ((None, available_cores()), (3, 3)):
        with TaskPool(n_jobs, None, {}, SILENT) as pool:
            assert pool.n_jobs == expected


def test_a_bug_in_a_task_is_not_hidden():
    def task(x):
        return 1 // x

    with pytest.raises(ZeroDivisionError):
        run_tasks(task, [(1,), (0,)], n_jobs=1)


def test_here_tasks_use_all_cores_and_leave_the_threads_as_they_were():
    def task():
        return max(pool["num_threads"] for pool in threadpoolctl.threadpool_info())

    with threadpoolctl.threadpool_limits(1):
        (result,) = run_tasks(task, [()])
        assert result.value == available_cores()
        assert task() == 1


def what_strangers_get(address):
    """Return how a port answers somebody without a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    web = http.client.HTTPConnection(*address, timeout=60)
    try:
        web.request("GET", "/info/main/workers.html")
        return web.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        pass
    finally:
        web.close()
    with (
        socket.create_connection(address, timeout=60) as raw,
        context.wrap_socket(raw) as stream,
    ):
        try:
            stream.sendall(bytes(64))
            return stream.recv(1)
        except (ConnectionError, ssl.SSLError):
            return b""


def listening():
    """Return the addresses at which this process and those that it started listen."""
    me = psutil.Process()
    return {
        (one.laddr.ip, one.laddr.port)
        for process in (me, *me.children(recursive=True))
        for one in process.net_connections(kind="inet")
        if one.status == psutil.CONN_LISTEN
    }


def test_other_users_of_this_machine_can_not_reach_the_workers(monkeypatch, tmp_path):
    # Somebody made the folder from which Dask's processes would import modules.
    (tmp_path / "dask-scratch-space").mkdir()
    (tmp_path / "dask-scratch-space").chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def task():
        import sys

        return sys.path

    others = listening()
    with TaskPool(1, None, {"FEATSTORE_A_TEST": "7"}, SILENT) as pool:
        (result,) = pool.run(task, [()])
        (folder,) = (path for path in tmp_path.iterdir() if path.name != "dask-scratch-space")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in (*result.value, *sys.path):
            assert not Path(path).is_relative_to(tmp_path / "dask-scratch-space")
        addresses = sorted(listening() - others)
        answers = [what_strangers_get(address) for address in addresses]
    # Scheduler, nanny and worker; the pages of scheduler and worker.
    assert {host for host, _ in addresses} == {"127.0.0.1"}
    assert sorted(answers, key=str) == [404, 404, b"", b"", b""]
    assert not folder.exists()


def test_a_clock_that_is_set_back_closes_no_worker_out():
    arguments = parallel._LocalSecurity.temporary().get_connection_args("client")
    # OpenSSL's X509_V_FLAG_NO_CHECK_TIME.
    assert arguments["ssl_context"].verify_flags & 0x200000


def test_workers_are_started_once_with_an_environment_and_serve_all_that_follows(
    capfd, monkeypatch
):
    close = LocalCluster.close

    def slow(self, timeout=None):
        close(self, timeout)
        raise TimeoutError

    # Workers that are slow to end cost no result.
    monkeypatch.setattr(LocalCluster, "close", slow)

    # Defined here, the function travels by value: workers can't import this file.
    def task(x):
        import os

        return x, os.getpid(), os.environ.get("FEATSTORE_A_TEST")

    heard = Listener()
    with TaskPool(1, None, {"FEATSTORE_A_TEST": "7"}, heard) as pool:
        first = pool.run(task, [(1,), (2,)])
        second = pool.run(task, [(3,)], is_quick=True)
    found = [result.value for result in first + second]
    assert [(x, value) for x, _, value in found] == [(1, "7"), (2, "7"), (3, "7")]
    assert len({pid for _, pid, _ in found} | {os.getpid()}) == 2
    assert heard.lines == []
    assert "FEATSTORE_A_TEST" not in os.environ
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("protocol", ["inproc", "tls"])
def test_a_scheduler_that_is_running_is_used_and_left_as_it_was(protocol, tmp_path, monkeypatch):
    def task(x):
        import os

        return x, os.getpid()

    security = Security.temporary() if protocol == "tls" else None
    settings = {}
    if security is not None:
        names = {
            "ca-file": security.tls_ca_file,
            "client.key": security.tls_client_key,
            "client.cert": security.tls_client_cert,
        }
        for name, content in names.items():
            (tmp_path / name).write_text(content)
            settings[f"distributed.comm.tls.{name}"] = str(tmp_path / name)
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        security=security,
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith(f"{protocol}://")
        for _ in range(2):
            with dask.config.set(settings), TaskPool(1, address, {}, SILENT) as pool:
                results = pool.run(task, [(1,)], is_quick=True)
            assert [result.value for result in results] == [(1, os.getpid())]
        if security is not None:
            monkeypatch.setattr(parallel, "CONNECT_S", 1)
            for wrong, place in (({}, address), (settings, address.replace("tls", "tcp"))):
                with (
                    dask.config.set(wrong | {"distributed.comm.require-encryption": bool(wrong)}),
                    TaskPool(1, place, {}, SILENT) as pool,
                    pytest.raises(SchedulerError, match="answers at 't.*Dask's configuration"),
                ):
                    pool.run(task, [(1,)])
        assert len(cluster.workers) == 1


def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 0.2)
    with (
        TaskPool(None, "tcp://127.0.0.1:9", {}, SILENT) as pool,
        pytest.raises(SchedulerError, match="No Dask scheduler answers at 'tcp://127.0.0.1:9'"),
    ):
        pool.run(os.getpid, [()])


@pytest.mark.parametrize("address", ["nonsense", "", "http://127.0.0.1:9", "ucx://a:1"])
@pytest.mark.filterwarnings("ignore:The 'ucx' protocol was removed:FutureWarning")
def test_an_address_that_is_none_is_an_error_and_holds_up_no_later_cluster(address, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 1)
    with (
        TaskPool(None, address, {}, SILENT) as pool,
        pytest.raises(SchedulerError, match=f"No Dask scheduler answers at '{address}'"),
    ):
        pool.run(os.getpid, [()])
    # One that is collected while a cluster's loop starts waits for that, and that for it.
    clients = [thing for thing in gc.get_objects() if type(thing) is Client]
    assert [client for client in clients if client.status != "closed"] == []


def test_workers_share_the_cores_and_outlive_death_and_errors(capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # Where Dask would put its dashboard, another cluster has its own.
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind(("", 8787))
            taken.listen()
        _share_and_outlive(capfd)


def _share_and_outlive(capfd):
    # Defined here, the function travels by value: workers can't import this file.
    def task(kind):
        import os
        import signal

        import numpy as np
        from threadpoolctl import threadpool_info

        from featstore.errors import FitError

        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "fails":
            raise FitError("it can't be done")
        np.ones((300, 300)) @ np.ones((300, 300))
        n_threads = [pool["num_threads"] for pool in threadpool_info()]
        return kind, os.getpid(), max(n_threads), os.environ["OMP_NUM_THREADS"]

    kinds = ["a", "dies", "b", "fails", "c", "d"]
    received = {}
    results = run_tasks(task, [(kind,) for kind in kinds], n_jobs=2, done=received.__setitem__)

    good = [result.value for result in results if result.value]
    assert [value[0] for value in good] == ["a", "b", "c", "d"]
    assert os.getpid() not in {value[1] for value in good}
    share = max(1, available_cores() // 2)
    assert {value[2] for value in good} == {share}
    assert {value[3] for value in good} == {str(share)}
    assert "died twice" in str(results[1].error)
    assert isinstance(results[1].error, FitError)
    assert str(results[3].error) == "it can't be done"
    assert received == dict(enumerate(results))
    # Dask says nothing of all this on the terminal, and changes nothing for later workers.
    assert capfd.readouterr() == ("", "")
    assert "OMP_NUM_THREADS" not in os.environ


class Answering:
    """A client whose workers have the given versions of Python and featstore."""

    def __init__(self, python, package):
        self.python, self.package = python, package

    def run(self, function, *args, workers, on_error):
        answer = self.package if args else self.python
        return dict.fromkeys(workers, answer)


PYTHON = platform.python_version_tuple()
PACKAGE = metadata.version(DISTRIBUTION)


@pytest.mark.parametrize(
    ("python", "package", "message"),
    [
        (("3", "8", "1"), PACKAGE, "tcp://w has Python 3.8"),
        (PYTHON, "0.0.1", "featstore 0.0.1; here"),
        (PYTHON, metadata.PackageNotFoundError(DISTRIBUTION), "has no featstore"),
    ],
)
def test_workers_that_could_not_read_their_tasks_are_refused(python, package, message):
    with pytest.raises(SchedulerError, match=message):
        parallel._compare_versions(Answering(python, package), ["tcp://w"])


@pytest.mark.parametrize("package", [PACKAGE, OSError("it died")])
def test_other_workers_are_welcome(package):
    parallel._compare_versions(Answering(PYTHON, package), ["tcp://w"])


SCRIPT = """
import time
from featstore.parallel.task_pool import TaskPool
from featstore.progress import SILENT

print("started", flush=True)

def task(seconds):
    import time
    time.sleep(seconds)
    return seconds

with TaskPool(2, None, {}, SILENT) as pool:
    pool.run(task, [(0,), (300,), (300,)], done=lambda i, o: print("done", i, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_all_workers_and_the_script_is_not_run_by_them(tmp_path):
    # The script has no `if __name__ == "__main__"`, as a user's notebook or script may not.
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in a shell's background they inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stdout.readline() == "started\n"
        assert process.stdout.readline() == "done 0\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)
        # Its tasks would take longer.
        out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert out == ""
    assert err.strip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
