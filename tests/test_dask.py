"""The work spread over a cluster: the same bytes, whatever becomes of the workers."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

distributed = pytest.importorskip("distributed", reason="needs the extra `dask`")

from pvq_ref import compress  # noqa: E402
from pvq_ref.cli import main  # noqa: E402
from pvq_ref.curvature import checked_hessian  # noqa: E402
from pvq_ref.hessian_encoding import compress_with_hessians  # noqa: E402
from pvq_ref.hessian_writer import hessian_writer  # noqa: E402
from pvq_ref.plan import Settings  # noqa: E402
from tests.models import names_in  # noqa: E402

# The library's own threads and sockets end when they like.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Ten tensors, one of them of three units, Hessians of two; and what single runs make."""
    folder = tmp_path_factory.mktemp("dask")
    rng = np.random.default_rng(0)
    tensors = {f"{i}.weight": rng.standard_normal((256, 512), dtype=np.float32) for i in range(9)}
    tensors["9.weight"] = rng.standard_normal((2100, 2048), dtype=np.float32)
    save_file(tensors, folder / "m")
    with hessian_writer(folder / "h", {"0": 512, "1": 512}) as writer:
        x = rng.standard_normal((1024, 512))
        writer.write(["0", "1"], checked_hessian(x.T @ x, 512)[0], len(x))
    compress(folder / "m", folder / "data-free")
    compress_with_hessians(folder / "m", folder / "Hessians", folder / "h", Settings())
    return folder / "m"


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def run(*argv):
    return main([str(one) for one in argv])


@pytest.mark.parametrize("way", ["data-free", "Hessians"])
def test_a_cluster_gives_the_bytes_of_a_single_run(model, tmp_path, cluster, capsys, way):
    more = ["--hessians", model.with_name("h")] if way == "Hessians" else []
    address = cluster.scheduler.address
    assert run("compress", model, tmp_path / "c", "--dask", address, *more) == 0
    assert (tmp_path / "c").read_bytes() == model.with_name(way).read_bytes()
    assert names_in(tmp_path) == ["c"]
    assert "the cluster left" not in capsys.readouterr().err


def test_a_local_cluster(model, tmp_path, capsys):
    assert run("compress", model, tmp_path / "c", "--dask", "local", "-j2") == 0
    assert (tmp_path / "c").read_bytes() == model.with_name("data-free").read_bytes()
    assert "the cluster left" not in capsys.readouterr().err


def test_workers_may_be_lost(model, tmp_path, cluster):
    """One is killed as soon as there is a piece; its task runs again elsewhere."""
    victims, in_time = list(cluster.run(os.getpid).values()), []

    def kill():
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("c.partial/0*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(victims[0], signal.SIGKILL)
        in_time.append(not (tmp_path / "c").exists())

    killer = threading.Thread(target=kill)
    killer.start()
    assert run("compress", model, tmp_path / "c", "-q", "--dask", cluster.scheduler.address) == 0
    killer.join()
    assert in_time == [True], "the test needs a model that takes longer"
    assert (tmp_path / "c").read_bytes() == model.with_name("data-free").read_bytes()
    assert names_in(tmp_path) == ["c"]


def test_an_error_is_that_of_a_single_run(model, tmp_path, cluster, capsys):
    tensors = load_file(model)
    tensors["3.weight"][5, 7] = np.nan
    save_file(tensors, tmp_path / "m")
    address = cluster.scheduler.address
    assert run("compress", tmp_path / "m", tmp_path / "c", "-q", "--dask", address) == 1
    assert "tensor '3.weight': weights must be finite" in capsys.readouterr().err
    assert names_in(tmp_path) == ["m"]


def test_no_cluster_is_said(model, tmp_path, capsys):
    assert run("compress", model, tmp_path / "c", "--dask", "nonsense://1") == 1
    assert "the cluster must be local or the address" in capsys.readouterr().err


def test_wrong_usage(model, tmp_path, capsys):
    base = ["compress", model, tmp_path / "c", "--dask", "local"]
    assert run(*base, "--shard", "1/2") == 2
    assert run(*base, "--calibrate", "text") == 2
    assert "--dask must" in capsys.readouterr().err
    assert names_in(tmp_path) == []
