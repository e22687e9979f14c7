"""A training run on disk: what ``fdlib.training.train`` writes, and how a run goes on from it.

run/                        a run's folder
    config.json             the settings; a resume with others is refused
    log.jsonl               one line every ``log_every`` steps: step, loss, seconds, ...
    checkpoint-00002000.pt  all that a resume needs; the newest ``keep`` are kept
    model/                  the averaged weights, for ``from_pretrained``
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

from fdlib.denoiser import Model
from fdlib.files import atomic_write

if TYPE_CHECKING:
    from fdlib.training import TrainingState


def settings_of(denoiser: Model, objective: Any, config: Any, dataset: Any) -> dict:
    """All that must agree for a resume to continue the same run, as plain JSON."""
    settings = {"model": type(denoiser).__name__, "objective": _describe(objective), "training": asdict(config)}
    settings["dataset"] = {"class": type(dataset).__name__, "examples": len(dataset)}
    settings["model_config"] = dict(getattr(denoiser, "_hub_mixin_config", None) or {})
    return json.loads(json.dumps(settings, default=str))


def _describe(thing: Any) -> Any:
    """A callable's settings: a data class by its fields, a function by its name (``repr`` would show its address)."""
    if is_dataclass(thing):
        return {"class": type(thing).__qualname__, **{f.name: _describe(getattr(thing, f.name)) for f in fields(thing)}}
    if callable(thing):
        return getattr(thing, "__qualname__", type(thing).__qualname__)
    return thing if isinstance(thing, int | float | str | None) else repr(thing)


MAY_CHANGE = {"steps", "log_every", "save_every", "keep", "workers", "compile"}  # they do not change what is computed


@dataclass
class RunFolder:
    """Settings, log, checkpoints and model of one run on disk; only the main process writes."""

    folder: Path
    settings: dict
    keep: int
    accelerator: Accelerator
    optimizer: Any
    averaged: AveragedModel

    def open(self, state: TrainingState, resume: bool) -> None:
        """Continue the folder's run, if there is one that agrees; else start a new one."""
        checkpoints = self.checkpoints()
        if checkpoints and not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already ({checkpoints[-1].name}): choose another folder, "
                "delete this one, or resume=True"
            )
        if checkpoints:
            self._compare()
            self._load(state, checkpoints)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with atomic_write(self.folder / "config.json") as path:
                path.write_text(json.dumps(self.settings, indent=2) + "\n")
            with atomic_write(self.folder / "log.jsonl") as path:  # the lines after the checkpoint will come again
                path.write_text("".join(json.dumps(row) + "\n" for row in state.history))

    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def newest(self) -> Path | None:
        return next(iter(self.checkpoints()[::-1]), None)

    def append_log(self, row: dict) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint and the model, then remove old checkpoints; all or nothing."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "step": state.step,
            "seconds": state.seconds,
            "history": state.history,
            "denoiser": state.denoiser.state_dict(),
            "ema": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        name = f"checkpoint-{state.step:08d}.pt"
        with atomic_write(self.folder / name) as path:
            torch.save(content, path)
        if isinstance(state.ema, Model):
            state.ema.save_pretrained(self.folder / "model", model_card_kwargs={"training": self._card()})
        written = [path for path in self.checkpoints() if path.name <= name]  # a damaged later one counts for nothing
        for old in written[: -self.keep]:
            old.unlink()

    def _card(self) -> dict[str, Any]:
        """What the automatic model card says of the training."""
        training = flatten({k: v for k, v in self.settings.items() if k in ("objective", "training", "dataset")})
        return {key: value for key, value in training.items() if key.split(".")[-1] not in MAY_CHANGE - {"steps"}}

    def _compare(self) -> None:
        file = self.folder / "config.json"
        saved = json.loads(file.read_text()) if file.is_file() else {}
        refuse_other_settings(self.folder, saved, self.settings)

    def _load(self, state: TrainingState, checkpoints: list[Path]) -> None:
        for path in reversed(checkpoints):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)  # load_state_dict moves it
                break
            except Exception as error:  # a damaged file fails in many ways; the one before it is still good
                reason = type(error).__name__  # torch's own text advises to switch its safety off
                warnings.warn(f"{path} cannot be read ({reason}); trying the checkpoint before it", stacklevel=4)
        else:
            raise ValueError(f"no checkpoint in {self.folder} can be read: delete the folder to start again")
        state.denoiser.load_state_dict(content["denoiser"])
        self.averaged.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        state.step, state.seconds, state.history[:] = content["step"], content["seconds"], content["history"]


def saved_seed(folder: str | Path) -> int | None:
    """The seed of the run that a folder holds; None if no checkpoint is there to go on from."""
    file = Path(folder) / "config.json"
    if not file.is_file() or not any(Path(folder).glob("checkpoint-*.pt")):
        return None
    return json.loads(file.read_text()).get("training", {}).get("seed")


def refuse_other_settings(folder: Path, saved: Mapping, settings: Mapping) -> None:
    """Compare a run's settings with those it is to go on with; those that do not change what is computed may differ.

    Raises:
        ValueError: all that differs, one a line.
    """
    old, new = flatten(saved), flatten(settings)
    rate_needs = {"steps"} if old.get("training.decay") == "cosine" else set()
    may_change = MAY_CHANGE - rate_needs
    differing = [
        f"  {key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key.split(".")[-1] not in may_change
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings; give this run another folder, or the same "
            "settings:\n" + "\n".join(differing)
        )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, by dotted names."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        k: v
        for key, value in tree.items()
        for k, v in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
