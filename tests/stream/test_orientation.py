"""What data can tell of a detector's orientation: the 64 pairs and their equivalences, by numbers; a flip is found."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ptyinr.simulate import expected_counts
from ptyinr_stream import orientation
from ptyinr_stream.commands import check_orientation
from ptyinr_stream.config import parse_config
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.frames import oriented
from ptyinr_stream.orientation import (
    CLASSES,
    NAMES,
    Verdict,
    find_orientation,
    matrix,
    name_of,
    position_change,
    relative,
    remapped,
    turned,
)
from ptyinr_stream.replay import HXN_ENCODERS

SIDE = 16


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A probe (odd side, so that the middle is the middle), an object, and whole corners within it."""
    random = np.random.default_rng(2)
    n = SIDE + 1
    r = np.stack(np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, indexing="ij"))
    probe = np.exp(-((r[0] / 3) ** 2 + (r[1] / 4) ** 2)) * np.exp(1j * (0.1 * r[0] ** 2 + 0.07 * r[0] * r[1]))
    field = np.exp(1j * random.normal(size=(41, 41))) * random.uniform(0.5, 1, (41, 41))
    corners = random.integers(0, 25, (12, 2)).astype(float)
    return probe, field, corners


def patterns(probe: np.ndarray, field: np.ndarray, corners: np.ndarray) -> np.ndarray:
    return expected_counts(field, probe[None], corners)


def seen_from(moves: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Corners when positions, counted from the middle of the field, are moved."""
    return (corners - 12) @ moves.T + 12


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_says_where_an_orientation_moves_a_pixel(name: str) -> None:
    for row, column in itertools.product((-2, 1), (0, 2)):
        image = np.zeros((5, 5))
        image[2 + row, 2 + column] = 1
        moved = np.argwhere(oriented(image, name))[0] - 2
        assert moved.tolist() == (matrix(name) @ (row, column)).tolist()
    assert name_of(matrix(name)) == name


@pytest.mark.parametrize("name", NAMES)
def test_turning_detector_and_positions_alike_turns_the_picture(name: str, world: tuple[np.ndarray, ...]) -> None:
    probe, field, corners = world
    measured = np.stack([oriented(image, name) for image in patterns(probe, field, corners)])
    explained = patterns(oriented(probe, name), oriented(field, name), seen_from(matrix(name), corners))
    np.testing.assert_allclose(explained, measured, rtol=1e-6, atol=1e-9)


def test_conjugate_fields_explain_patterns_turned_by_180_degrees(world: tuple[np.ndarray, ...]) -> None:
    probe, field, corners = world
    measured = np.stack([oriented(image, "rot180") for image in patterns(probe, field, corners)])
    np.testing.assert_allclose(patterns(probe.conj(), field.conj(), corners), measured, rtol=1e-6, atol=1e-9)


def test_the_64_pairs_are_4_classes_of_16() -> None:
    classes = [relative(g, h) for g, h in itertools.product(NAMES, NAMES)]
    assert [classes.count(k) for k in range(4)] == [16] * 4
    assert all(relative(name, name) == 0 for name in NAMES)
    assert {name for names in CLASSES for name in names} == set(NAMES)
    for names in CLASSES:
        assert (matrix(names[0]) == -matrix(names[1])).all()


def test_the_change_of_positions_mends_what_the_orientation_spoils() -> None:
    for configured, right in itertools.product(NAMES, NAMES):
        change = position_change(configured, right)
        alone = name_of(matrix(change).T @ matrix(configured))
        assert alone == right


def test_a_changed_encoder_moves_positions_and_the_commanded_range_alike() -> None:
    assert remapped(HXN_ENCODERS, "as_sent") == HXN_ENCODERS
    mirrored = remapped(HXN_ENCODERS, "fliplr")
    assert mirrored.axis0 == HXN_ENCODERS.axis0
    assert mirrored.axis1.um_per_count == -HXN_ENCODERS.axis1.um_per_count
    assert (mirrored.axis1.motor_sign, mirrored.motors) == (-1, (0, 1))
    swapped = remapped(HXN_ENCODERS, "transpose")
    assert (swapped.axis0, swapped.axis1, swapped.motors) == (HXN_ENCODERS.axis1, HXN_ENCODERS.axis0, (1, 0))
    quarter = remapped(HXN_ENCODERS, "rot90")  # (r, c) to (-c, r)
    assert quarter.axis0.um_per_count == -HXN_ENCODERS.axis1.um_per_count
    assert quarter.axis1 == HXN_ENCODERS.axis0


@pytest.mark.parametrize("name", ["fliplr", "rot90", "antitranspose"])
def test_a_scan_turned_there_and_back_is_itself(name: str, simulated: RecordedScan) -> None:
    there = turned(simulated, name)
    assert there.geometry.window == ((24, 32) if name != "fliplr" else (32, 24))
    # DC stays in the middle though the sides are even.
    h, w = there.geometry.window
    np.testing.assert_array_equal(there.counts[:, h // 2, w // 2], simulated.counts[:, 16, 12])
    back = turned(there, name_of(matrix(name).T))
    np.testing.assert_array_equal(back.counts, simulated.counts)


def test_a_wrong_flip_is_found(simulated: RecordedScan) -> None:
    verdict = find_orientation(turned(simulated, "rot270"), frames=72, steps=25)
    assert verdict.possible == (2,)
    assert "rot90" in CLASSES[verdict.best]  # the inverse


def test_frames_without_light_or_neighbours_cannot_be_asked(simulated: RecordedScan) -> None:
    with pytest.raises(ScanFileError, match="no frame holds any light"):
        find_orientation(replace(simulated, counts=np.zeros_like(simulated.counts)))
    few = replace(simulated, counts=simulated.counts[:8], positions_m=simulated.positions_m[:8])
    with pytest.raises(ScanFileError, match="8 frames with light: some 60 are needed"):
        find_orientation(few)


# What is told


def verdict(errors: tuple[float, ...], absorption: float = 0.0, sigma: float = 9.0) -> Verdict:
    sigmas = tuple(0.0 if e == min(errors) else sigma for e in errors)
    return Verdict(errors, sigmas, (absorption,) * 4, 100)


def said(
    told: Verdict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], orientation_: str = "fliplr"
) -> tuple[bool, str]:
    monkeypatch.setattr(orientation, "find_orientation", lambda *_, **__: told)
    monkeypatch.setattr("ptyinr_stream.formats.ptyinr_h5.read_scan", lambda _: None)
    stream = {"endpoint": "tcp://127.0.0.1:*", "wire": "panda"}
    config = parse_config(
        {
            "streams": dict.fromkeys(("documents", "frames", "positions"), stream),
            "geometry": {"detector_pixel_um": 75},
            "frames": {"orientation": orientation_},
            "positions": HXN_ENCODERS.model_dump(),
        }
    )
    right = check_orientation.check_orientation("scan.h5", config, quiet=True)
    return right, capsys.readouterr().out


def test_the_right_orientation_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right, text = said(verdict((3.0, 1.0, 3.1, 2.9)), monkeypatch, capsys)
    assert right
    assert 'orientation = "fliplr"' in text
    assert 'or "flipud", its twin' in text
    assert "positions instead" not in text


def test_a_wrong_one_fails_and_both_ways_to_mend_it_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, text = said(verdict((1.0, 2.0, 3.1, 2.9), absorption=-0.8), monkeypatch, capsys)
    assert not right
    assert "fliplr is WRONG. Right is as_sent or rot180: the next is 2.00 times as far off" in text
    assert 'orientation = "rot180"' in text
    assert 'not "as_sent", its twin' in text
    assert "um_per_count = 9.542e-05" in text  # axis 0 turned instead


def test_the_twin_is_named_where_the_sample_absorbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, text = said(verdict((3.0, 1.0, 3.1, 2.9), absorption=-0.8), monkeypatch, capsys)
    assert right  # data alone do not contradict it
    assert 'orientation = "flipud"' in text


def test_a_scan_that_cannot_tell_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right, text = said(verdict((1.0, 1.05, 3.1, 2.9)), monkeypatch, capsys)
    assert right
    assert "does not tell" in text
    assert said(verdict((1.0, 1.5, 3.1, 2.9), sigma=1.0), monkeypatch, capsys, "rot90")[0]
