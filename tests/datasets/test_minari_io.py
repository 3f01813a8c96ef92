import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from moto_pl.datasets.minari_io import list_datasets, open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.envs.observation import ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode

ID = "test/demo-v0"

pytestmark = pytest.mark.usefixtures("root")


def make_episode(seed: int, steps: int = 5, size: int = 32, actions: int = 3, terminated: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        image=rng.integers(0, 256, (steps + 1, size, size, 3), np.uint8),
        action=rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=rng.random(steps) < 0.5,
        extras={"completed": rng.random((steps, 4)) < 0.5},
        info={"seed": seed, "render_quality": "fast", "scale": 0.5, "shown": True, "source": "scripted"},
    )


def assert_same(left: Episode, right: Episode) -> None:
    for name in ("image", "action", "reward", "success"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert (left.terminated, left.truncated, left.info) == (right.terminated, right.truncated, right.info)
    assert left.extras.keys() == right.extras.keys()
    for key in left.extras:
        assert left.extras[key].dtype == right.extras[key].dtype
        np.testing.assert_array_equal(left.extras[key], right.extras[key], err_msg=key)


def edit(path: Path, key: str, value: np.ndarray) -> None:
    """Replace one array of a written dataset."""
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file[key]
        file[key] = value


@pytest.mark.parametrize("as_path", [False, True])
def test_round_trip(as_path: bool, tmp_path: Path) -> None:
    target: str | Path = tmp_path / "here" if as_path else ID
    episodes = [make_episode(0), make_episode(1, steps=9, terminated=True), make_episode(2, steps=1)]
    write_dataset(target, iter(episodes), metadata={"seed": 7})
    reader = open_dataset(target)
    assert (len(reader), reader.transitions, reader.image_shape, reader.action_size) == (3, 15, (32, 32, 3), 3)
    assert reader.own == {"seed": 7}
    for written, read in zip(episodes, reader, strict=True):
        assert_same(written, read)
    assert_same(episodes[1], reader[1])
    assert reader.check(32, 3) == [5, 9, 1]


def test_minari_reads_what_is_written() -> None:
    episode = make_episode(3)
    write_dataset(ID, [episode], env_id="moto_pl/Reach-v0", metadata={"env_kwargs": {"image_size": 32}})
    dataset = minari.load_dataset(ID)
    (read,) = dataset.iterate_episodes()
    np.testing.assert_array_equal(read.observations["image"], episode.image)
    np.testing.assert_array_equal(read.actions, episode.action)
    assert len(read.infos["success"]) == episode.length + 1  # the reset's first, as Minari's collector writes them
    assert dataset.recover_environment().observation_space["image"].shape == (32, 32, 3)
    assert list(minari.list_local_datasets()) == [ID]


def test_images_are_compressed(root: Path) -> None:
    flat = make_episode(0, steps=100)
    flat.image[:] = 7
    write_dataset(ID, [flat])
    assert (root / ID / "data" / "main_data.hdf5").stat().st_size < flat.image.nbytes / 5


def buffer(observations: Any, steps: int = 4, infos: dict[str, Any] | None = None) -> EpisodeBuffer:
    return EpisodeBuffer(
        observations=observations,
        actions=np.linspace(-1, 1, 2 * steps).reshape(steps, 2),
        rewards=[0.0, 1.0, 0.0, 2.0][:steps],
        terminations=[False] * steps,
        truncations=[False] * steps,
        infos=infos,
    )


def foreign(
    space: spaces.Space[Any], observations: Any, actions: spaces.Space[Any] | None = None, **kwargs: Any
) -> None:
    """A dataset made by Minari's own writer."""
    minari.create_dataset_from_buffers(
        ID,
        [buffer(observations, **kwargs)],
        observation_space=space,
        action_space=actions or spaces.Box(-1, 1, (2,)),
        jpeg_encoding=False,
    )


IMAGE = spaces.Box(0, 255, (48, 48, 3), np.uint8)
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestForeign:
    def test_plain_image(self) -> None:
        foreign(IMAGE, FRAMES)
        reader = open_dataset(ID)
        episode = reader[0]
        assert reader.cameras == {"image": ""}
        np.testing.assert_array_equal(episode.image, FRAMES)
        assert episode.action.dtype == np.float32
        # Without a success among the infos, a step with a reward is one; without a flag, the end is a cut.
        assert episode.success.tolist() == [False, True, False, True]
        assert (episode.terminated, episode.truncated) == (False, True)

    def test_jpeg(self) -> None:
        smooth = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None, None] * 4, (5, 48, 48, 3))
        minari.create_dataset_from_buffers(
            ID, [buffer(smooth)], observation_space=IMAGE, action_space=spaces.Box(-1, 1, (2,))
        )
        assert np.abs(open_dataset(ID)[0].image.astype(int) - smooth).max() < 8

    def test_nested_key_is_found(self) -> None:
        state = spaces.Box(-1, 1, (2,))
        space = spaces.Dict({"state": state, "cameras": spaces.Dict({"front": IMAGE})})
        foreign(space, {"state": np.zeros((5, 2), np.float32), "cameras": {"front": FRAMES}})
        reader = open_dataset(ID)
        assert reader.cameras == {"image": "cameras/front"}
        np.testing.assert_array_equal(reader[0].image, FRAMES)

    def test_key_must_be_chosen_among_several(self) -> None:
        foreign(spaces.Dict({"left": IMAGE, "right": IMAGE}), {"left": FRAMES, "right": FRAMES[::-1]})
        with pytest.raises(
            SettingError, match="dataset test/demo-v0: found several images: left, right.*in data.observation.cameras"
        ):
            open_dataset(ID)
        with pytest.raises(SettingError, match="image_key.*'up'.*left, right"):
            open_dataset(ID, image_key="up")
        with pytest.raises(SettingError, match=r"data\.observation\.cameras: found 'up'.*left, right"):
            open_dataset(ID, wanted=ObservationConfig(("up",)))
        for options in ({"image_key": "right"}, {"wanted": ObservationConfig(("right",))}):
            np.testing.assert_array_equal(open_dataset(ID, **options)[0].image, FRAMES[::-1])  # type: ignore[arg-type]

    @pytest.mark.parametrize("rows", [4, 5])
    def test_infos_with_and_without_the_resets_row(self, rows: int) -> None:
        success = np.array([True, False, False, True, True])[-rows:]
        foreign(IMAGE, FRAMES, infos={"success": success, "speed": np.arange(5.0)[-rows:], "note": ["x"] * rows})
        episode = open_dataset(ID)[0]
        assert episode.success.tolist() == [False, False, True, True]
        assert {key: value.tolist() for key, value in episode.extras.items()} == {"speed": [1, 2, 3, 4]}

    def test_infos_that_an_episode_cannot_hold_are_left_out(self) -> None:
        infos = {
            "small": np.arange(5, dtype=np.int16),
            "half": np.arange(5, dtype=np.float16),
            "unknown": np.full(5, np.nan),
            "two words": np.arange(5),
            "nested": {"speed": np.arange(5)},
        }
        foreign(IMAGE, FRAMES, infos=infos)
        extras = open_dataset(ID)[0].extras
        assert {key: (value.dtype.name, value.tolist()) for key, value in extras.items()} == {
            "small": ("int64", [1, 2, 3, 4]),
            "half": ("float64", [1, 2, 3, 4]),
        }

    def test_success_is_all_objects_completed(self) -> None:
        completed = np.array([[0, 0], [1, 0], [1, 0], [1, 1], [1, 1]], bool)
        foreign(IMAGE, FRAMES, infos={"completed": completed})
        assert open_dataset(ID)[0].success.tolist() == [False, False, True, True]

    def test_no_image(self) -> None:
        foreign(spaces.Dict({"state": spaces.Box(-1, 1, (2,))}), {"state": np.zeros((5, 2), np.float32)})
        with pytest.raises(SettingError, match=r"no image among.*state float32 \(2,\)"):
            open_dataset(ID)

    def test_discrete_actions(self) -> None:
        minari.create_dataset_from_buffers(
            ID,
            [
                EpisodeBuffer(
                    observations=FRAMES, actions=[0] * 4, rewards=[0.0] * 4, terminations=[0] * 4, truncations=[0] * 4
                )
            ],
            observation_space=IMAGE,
            action_space=spaces.Discrete(2),
        )
        with pytest.raises(SettingError, match="Discrete"):
            open_dataset(ID)


def test_other_sizes() -> None:
    write_dataset(ID, [make_episode(0)])
    reader = open_dataset(ID)
    with pytest.raises(SettingError, match="32x32, not 64x64"):
        reader.check(64, 3)
    with pytest.raises(SettingError, match="actions of 3 dimensions, not 4"):
        reader.check(32, 4)


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-1.0001, "-1.0001"), (np.nan, "nan"), (np.inf, "inf")])
def test_bad_action_names_episode_and_step(value: float, shown: str) -> None:
    episodes = [make_episode(0), make_episode(1)]
    path = write_dataset(ID, episodes)
    action = episodes[1].action.copy()
    action[3, 2] = value
    edit(path, "episode_1/actions", action)
    with pytest.raises(SettingError, match=rf"{re.escape(shown)} \(dimension 2\) at step 3 of episode 1"):
        open_dataset(ID).check(32, 3)


def test_bad_reward() -> None:
    path = write_dataset(ID, [make_episode(0)])
    edit(path, "episode_0/rewards", np.array([0, 1, np.nan, 0, 0], np.float32))
    with pytest.raises(SettingError, match="reward nan at step 2 of episode 0"):
        open_dataset(ID).check(32, 3)


@pytest.mark.parametrize("rows", [5, 7])
def test_wrong_number_of_frames(rows: int) -> None:
    path = write_dataset(ID, [make_episode(0)])
    edit(path, "episode_0/observations/image", np.zeros((rows, 32, 32, 3), np.uint8))
    with pytest.raises(SettingError, match=r"episode 0 of .*main_data.hdf5"):
        open_dataset(ID).check(32, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_named(share: float) -> None:
    path = write_dataset(ID, [make_episode(i) for i in range(3)])
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(SettingError, match=re.escape(str(file))):
        open_dataset(ID)


def test_flipped_bytes_are_noticed() -> None:
    path = write_dataset(ID, [make_episode(0, steps=40)])
    file = path / "data" / "main_data.hdf5"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(SettingError, match=re.escape(str(file))):
        open_dataset(ID).check(32, 3)


def test_missing_episode() -> None:
    path = write_dataset(ID, [make_episode(0), make_episode(1)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(SettingError, match=r"main_data\.hdf5 \(1 of the 2 episodes"):
        open_dataset(ID)


def test_missing_array() -> None:
    path = write_dataset(ID, [make_episode(0)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/truncations"]
    with pytest.raises(SettingError, match="main_data.hdf5 at episode 0.*truncations"):
        open_dataset(ID).check(32, 3)


def test_missing_files() -> None:
    path = write_dataset(ID, [make_episode(0)])
    (path / "data" / "main_data.hdf5").unlink()
    with pytest.raises(SettingError, match="main_data.hdf5"):
        open_dataset(ID)
    (path / "data" / "metadata.json").unlink()
    with pytest.raises(SettingError, match="metadata.json"):
        open_dataset(ID)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"data_format": "hdf5", "total_episodes": 1}'])
def test_damaged_metadata(content: str) -> None:
    path = write_dataset(ID, [make_episode(0)])
    (path / "data" / "metadata.json").write_text(content)
    with pytest.raises(SettingError, match="metadata.json"):
        open_dataset(ID)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation_space", "{}"),
        ("observation_space", 3),
        ("observation_space", '{"type": "Box", "dtype": "uint8", "shape": [1], "low": [0], "high": [355]}'),
        ("data_format", "carrier pigeon"),
        ("total_episodes", "many"),
        ("total_episodes", 10**30),
    ],
)
def test_nonsense_in_metadata(key: str, value: Any) -> None:
    path = write_dataset(ID, [make_episode(0)])
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(SettingError, match="metadata.json"):
        open_dataset(ID)


def test_a_dataset_cannot_make_us_run_code() -> None:
    path = write_dataset(ID, [make_episode(0)], env_id="moto_pl/Reach-v0")
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"]  # Minari would now create the environment to ask it
    metadata["env_spec"] = metadata["env_spec"].replace("moto_pl.envs.reach:ReachEnv", "os:abort")
    file.write_text(json.dumps(metadata))
    with pytest.raises(SettingError, match="observation_space"):
        open_dataset(ID)


def test_unknown_dataset() -> None:
    write_dataset("moto_pl/metaworld/door-open-v0", [make_episode(0)])
    with pytest.raises(SettingError, match="moto_pl/metaworld/door-open-v0.*moto data build metaworld/door-open"):
        open_dataset("moto_pl/metaworld/dor-open-v0")
    with pytest.raises(SettingError, match="Build it with: moto data build metaworld/hammer"):
        open_dataset("moto_pl/metaworld/hammer-v0")
    with pytest.raises(SettingError, match="moto data list"):
        open_dataset("qqqq/zzzz-v3")
    with pytest.raises(SettingError, match="/nowhere/at/all"):
        open_dataset("/nowhere/at/all")


def test_names_of_a_dataset() -> None:
    path = write_dataset("moto_pl/metaworld/door-open-v0", [make_episode(0)])
    for name in ("moto_pl/metaworld/door-open-v0", "metaworld/door-open", path, str(path), path / "data"):
        assert open_dataset(name).path == path


def test_an_interrupted_write_leaves_nothing(root: Path) -> None:
    def interrupted() -> Iterator[Episode]:
        yield make_episode(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(ID, interrupted())
    assert list((root / "test").iterdir()) == []
    write_dataset(ID, [make_episode(0)])
    with pytest.raises(KeyboardInterrupt):
        write_dataset(ID, interrupted(), overwrite=True)
    assert_same(open_dataset(ID)[0], make_episode(0))


def test_what_a_killed_write_leaves_is_not_listed(root: Path) -> None:
    path = write_dataset(ID, [make_episode(0)])
    path.rename(path.with_name(".demo-v0.1234"))
    assert list_datasets() == []


def test_existing_dataset_is_kept_unless_told() -> None:
    write_dataset(ID, [make_episode(0)])
    with pytest.raises(SettingError, match="already there.*--overwrite"):
        write_dataset(ID, [make_episode(1)])
    assert_same(open_dataset(ID)[0], make_episode(0))
    write_dataset(ID, [make_episode(1)], overwrite=True)
    assert_same(open_dataset(ID)[0], make_episode(1))
    assert list_datasets() == [ID]


def test_overwrite_spares_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(SettingError, match="not a dataset"):
        write_dataset(tmp_path / "photos", [make_episode(0)], overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_what_cannot_be_written() -> None:
    with pytest.raises(SettingError, match="namespace/name-v0"):
        write_dataset("no version", [make_episode(0)])
    with pytest.raises(SettingError, match="none"):
        write_dataset(ID, [])
    with pytest.raises(SettingError, match="one image and one action size"):
        write_dataset(ID, [make_episode(0), make_episode(1, size=40)])
    assert list_datasets() == []
