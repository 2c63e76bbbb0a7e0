"""Pictures for people: class colours, score as heat, and both over the frame."""

from __future__ import annotations

import cv2
import numpy as np

from vq_anomaly_ros.detection.calibration import rarity
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.images import Frame

Colour = tuple[int, int, int]
Palette = tuple[Colour, ...]

_ANOMALY: Colour = (110, 0, 255)  # BGR; no palette of street classes holds this pink
_OBSTACLE: Colour = (0, 220, 255)  # yellow, on a black rim seen on everything
_TINT = 0.45  # share of the anomaly's colour inside its outline
_LEGEND_SHARE = 0.01  # classes of a smaller share of the frame are not named
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_labels(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """uint8 [H, W, 3] BGR of uint8 [H, W] class ids; ids beyond the palette (255: none) are black.

    palette: RGB, one a class.
    """
    table = np.zeros((256, 3), np.uint8)
    if palette:
        table[: len(palette)] = np.array(palette, np.uint8)[:, ::-1]
    return cv2.applyColorMap(labels, table.reshape(256, 1, 3))


def score_heatmap(score: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] BGR of calibrated scores, float32 [H, W] in [0, 1].

    Linear in the rarity of the score: dark up to 0.9, orange at 0.999, bright yellow from 0.99999.
    """
    level = np.rint(255 * rarity(score)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO))


def overlay(
    frame: Frame,
    detection: Detection,
    info: ModelInfo,
    opacity: float = 0.35,
    legend: bool = True,
) -> np.ndarray:
    """uint8 [H, W, 3] BGR at the frame's size: classes lightly over it, anomalies pink, outlined.

    Obstacles are framed, with the number of the thing that they are; where only a region counts,
    a thin white line goes around it.

    opacity: share of the class colours, 0..1; legend: names of the classes that are seen, in a
    line at the bottom. Frame and detection are left as they are.
    """
    size = frame.size
    picture = frame.bgr().copy()
    mask = _at(detection.anomaly_mask, size)
    if detection.labels is not None and info.classes:
        labels = _at(detection.labels, size)
        colours = colour_labels(labels, info.palette)
        blend = cv2.addWeighted(picture, 1 - opacity, colours, opacity, 0)
        # what is anomalous keeps its own look: its class says nothing of it
        cv2.copyTo(blend, ((labels < len(info.classes)) & (mask == 0)).astype(np.uint8), picture)
        entries = _classes_in_sight(labels, info)
    else:
        entries = []
    if detection.region is not None:
        _outline_region(picture, detection.region)
    _mark_anomalies(picture, mask)
    _frame_obstacles(picture, detection)
    if legend:
        _draw_legend(picture, [('anomaly', _ANOMALY), *entries])
    return picture


def _at(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _mark_anomalies(picture: np.ndarray, mask: np.ndarray) -> None:
    """Tint what the mask covers and draw its outline, in place."""
    if not mask.any():
        return
    tint = np.full_like(picture, _ANOMALY)
    cv2.copyTo(cv2.addWeighted(picture, 1 - _TINT, tint, _TINT, 0), mask, picture)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    width = max(1, picture.shape[0] // 300)
    # white around the pink: seen on any class colour, the magenta pavement too
    cv2.drawContours(picture, contours, -1, (255, 255, 255), width + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, _ANOMALY, width, cv2.LINE_AA)


def _outline_region(picture: np.ndarray, region: np.ndarray) -> None:
    """A thin line around where alarms count, in place; region: bool [h, w]."""
    mask = _at(region.astype(np.uint8), picture.shape[:2])
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 1, cv2.LINE_AA)


def _frame_obstacles(picture: np.ndarray, detection: Detection) -> None:
    """A frame around every obstacle that has a number, and that, in place; black: missed now."""
    height, width = picture.shape[:2]
    scale = (width / detection.score.shape[1], height / detection.score.shape[0])
    text_scale = max(0.4, height / 1000)
    for obstacle in detection.obstacles:
        if obstacle.track is None:
            continue
        x, y, w, h = obstacle.box
        left, top = round(x * scale[0]), round(y * scale[1])
        right, bottom = round((x + w) * scale[0]), round((y + h) * scale[1])
        line = max(1, height // 400)
        cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 0), line + 2)
        if not obstacle.missed:
            cv2.rectangle(picture, (left, top), (right, bottom), _OBSTACLE, line)
        text = str(obstacle.track)
        origin = (left, top - 4 if top > 24 else bottom + round(24 * text_scale))
        cv2.putText(picture, text, origin, _FONT, text_scale, (0, 0, 0), 3 * line, cv2.LINE_AA)
        cv2.putText(picture, text, origin, _FONT, text_scale, _OBSTACLE, line, cv2.LINE_AA)


def _classes_in_sight(labels: np.ndarray, info: ModelInfo) -> list[tuple[str, Colour]]:
    """Name and BGR colour of the classes of at least a hundredth of the frame, largest first."""
    shares = np.bincount(labels.ravel(), minlength=256)[: len(info.classes)] / labels.size
    order = [i for i in np.argsort(-shares, kind='stable') if shares[i] >= _LEGEND_SHARE]
    return [(info.classes[i], info.palette[i][::-1]) for i in order]


def _draw_legend(picture: np.ndarray, entries: list[tuple[str, Colour]]) -> None:
    """A dark strip at the bottom with a chip and a name each, as many as fit, in place."""
    height, width = picture.shape[:2]
    line = max(14, height // 28)
    scale, pad = line / 34, line // 4
    strip = picture[max(0, height - line) :]
    strip //= 3
    left = pad
    for name, colour in entries:
        (text, _), _ = cv2.getTextSize(name, _FONT, scale, 1)
        if left + line + text > width:
            break
        cv2.rectangle(strip, (left, pad), (left + line - 2 * pad, line - pad), colour, -1)
        origin = (left + line - pad, line - pad)
        cv2.putText(strip, name, origin, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
        left += line + text + 2 * pad
