"""Speech recognition: sounds with texts in, a CTC model served by its task out.

Features are those that serve (`features.log_mel`); letters are learned from the texts, or are the
base's. Samples of one batch are of like length, and filled up to the longest.
"""

import importlib
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.data.augmentation import generator
from lmaas.data.augmentation.audio import STEPS, AudioAugmenter, SpecAugment
from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.automatic_speech_recognition import alphabet as alphabets
from lmaas.tasks.automatic_speech_recognition import score
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet
from lmaas.tasks.automatic_speech_recognition.ctc import MASK
from lmaas.tasks.automatic_speech_recognition.options import SpeechDataOptions
from lmaas.tasks.automatic_speech_recognition.spec import SPEC
from lmaas.tasks.automatic_speech_recognition.training import transcripts
from lmaas.tasks.automatic_speech_recognition.training.recordings import Recordings
from lmaas.training.base import IGNORED, Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import lineage
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.types import AudioSpec

FEATURES: Final = "features"
FRAMES_EVEN: Final = 64
SAMPLE: Final = 4


class SpeechRecognition(SizedNetwork):
    """The problem of one recipe."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        self._options = data_options(recipe, SpeechDataOptions)
        if recipe.method.type != "supervised" or recipe.adapter is not None:
            raise InvalidInput(
                f"{SPEC.name} learns supervised, all weights: no method dpo, no adapter.",
                param="method" if recipe.adapter is None else "adapter",
            )
        if recipe.label_smoothing:
            raise InvalidInput("CTC takes no label_smoothing.", param="label_smoothing")
        self._recipe = recipe
        self._augmenter = AudioAugmenter(recipe.augmentation)
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        self._splits = Splits(recipe, folder, fields=SPEC.trained.columns, content=("audio",))
        self._name, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        options = self._options
        self.audio = AudioSpec(
            sample_rate=options.sample_rate,
            features="log-mel",
            mel_bins=options.mel_bins,
            window=2 * (options.sample_rate // 80),
            hop=options.sample_rate // 125,
        )
        if self._base is not None:
            assert self._base.manifest.signature.audio is not None
            self.audio = self._base.manifest.signature.audio
            self._base.read_as(sample_rate=self.audio.sample_rate, mel_bins=self.audio.mel_bins)
            self._options = msgspec.convert(
                self._base.own_options() | recipe.data.options, SpeechDataOptions
            )
        self._texts = {id(p.table): self._normalised(p.table) for p in self._parts()}
        if self._base is None:
            train = self._splits.train.table
            self.alphabet = transcripts.learned(self._texts[id(train)])
        else:
            self.alphabet = alphabets.read(package.served_in(base, self._base.manifest))  # type: ignore[arg-type]
        waves = any(STEPS[t.name] is not SpecAugment for t in recipe.augmentation)
        self._sounds = {
            id(part.table): Recordings(
                part.table,
                self._splits.columns["audio"],
                self.audio,
                folder / "data",
                longest_s=self._options.longest_s,
                raw=waves,
            )
            for part in self._parts()
        }
        self._tokens = {id(p.table): self._spelled(p.table) for p in self._parts()}
        # One width for all batches: TensorFlow traces a graph for each shape.
        self._most_letters = max(len(t) for found in self._tokens.values() for t in found)
        self.model = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        self.loss = Loss(name="ctc")

    def _parts(self) -> list[Any]:
        return list({id(p.table): p for p in self._splits.parts.values()}.values())

    def _normalised(self, table: Table) -> list[str]:
        column = self._splits.columns["text"]
        found = [transcripts.normalised(t, self._options) for t in table.texts(column)]
        for row, text in enumerate(found):
            if not text:
                raise InvalidInput(
                    f"{table.place(row)}: nothing is left of the text once it is normalised "
                    f"({transcripts.rule(self._options)}).",
                    param="data",
                )
        return found

    def _spelled(self, table: Table) -> list[list[int]]:
        """Token numbers of each text. Raises InvalidInput, with the place, for one that does not
        fit into its sound.
        """
        numbers = transcripts.numbers_of(self.alphabet)
        frames, found = self._sounds[id(table)].frames, []
        for row, text in enumerate(self._texts[id(table)]):
            tokens = transcripts.spelled(text, numbers, lambda row=row: table.place(row))  # type: ignore[misc]
            steps = self.alphabet.steps(int(frames[row]))
            least = transcripts.least_steps(tokens)
            if least > steps:
                step_s = self.alphabet.stride * self.audio.hop / self.audio.sample_rate
                raise InvalidInput(
                    f"{table.place(row)}: the text is longer than its sound can hold: "
                    f"{len(tokens)} letters take {least} steps of {step_s * 1000:g} ms; the sound "
                    f"has {steps}.",
                    hint="The text and the sound do not belong together, or it is cut off.",
                    param="data",
                )
            found.append(tokens)
        return found

    def size(self, split: Split) -> int:
        """How many sounds a split has."""
        return len(self._splits.parts[split])

    def lengths(self) -> np.ndarray:
        """The frames of each sound to train on."""
        part = self._splits.train
        frames: np.ndarray = self._sounds[id(part.table)].frames[part.rows]
        return frames

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Spectrograms and masks; letters with the steps in which they are."""
        part = self._splits.parts[split]
        sounds, tokens = self._sounds[id(part.table)], self._tokens[id(part.table)]
        rows = part.rows[indices].tolist()
        learns = epoch is not None and bool(self._recipe.augmentation)
        spectra = []
        for row, index in zip(rows, indices.tolist(), strict=True):
            random = generator(self._recipe.seed, epoch or 0, index)
            spectrum = sounds.spectrogram(
                row,
                lambda s, r=random: self._augmenter.sound(s, r) if learns else s,  # type: ignore[misc]
            )
            spectra.append(self._augmenter.spectrogram(spectrum, random) if learns else spectrum)
        labels = [tokens[row] for row in rows]
        filled = np.full((len(rows), self._most_letters), IGNORED, np.int64)
        for place, each in enumerate(labels):
            filled[place, : len(each)] = each
        lengths = [self.alphabet.steps(len(spectrum)) for spectrum in spectra]
        return Feed(
            inputs=filled_up(spectra),
            targets={"labels": filled, "lengths": np.array(lengths, np.int64)},
            size=len(rows),
            weight=len(rows),
        )

    def meter(self) -> Meter:
        """WER and CER of the likeliest letters."""
        return ErrorMeter(self.alphabet)

    def _shape(self) -> Shape:
        return Shape(outputs=len(self.alphabet.tokens), channels=self.audio.mel_bins)

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        home = "lmaas.tasks.automatic_speech_recognition.training"
        module = importlib.import_module(f"{home}.{framework}")
        letters = len(self.alphabet.tokens)
        model = module.build(self._sizes, self.audio.mel_bins, letters, self._recipe.seed)
        if self._base is not None and not self.resized:
            self._base.fill(model, head=True)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `automatic-speech-recognition`, with its alphabet."""
        split: Split = "validation" if self.size("validation") else "train"
        sample = self.feed(split, np.arange(min(SAMPLE, self.size(split))), epoch=None)
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        manifest = package.build(
            model,
            name=recipe.name,
            task=recipe.task,
            sample=sample.inputs,
            folder=folder,
            audio=self.audio,
            dynamic={name: {1: "time"} for name in sample.inputs},
            outputs_are="logits",
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )
        self.alphabet.save(package.served_in(folder, manifest))

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and overlap; how texts are normalised and how much is heard."""
        frames = {
            split: int(self._sounds[id(part.table)].frames[part.rows].sum())
            for split, part in self._splits.parts.items()
        }
        seconds = self.audio.hop / self.audio.sample_rate
        return {
            **self._splits.facts(),
            "audio": msgspec.to_builtins(self.audio),
            "letters": "".join(self.alphabet.tokens[2:]),
            "normaliser": transcripts.rule(self._options),
            "hours": {split: round(n * seconds / 3600, 4) for split, n in frames.items() if n},
        }


class ErrorMeter:
    """WER and CER of greedy texts against what was learned."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet
        self._tally = score.Tally()

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count the sounds of a feed."""
        logits = next(iter(outputs.values()))
        targets = feed.targets
        for row, numbers, steps in zip(logits, targets["labels"], targets["lengths"], strict=True):
            said = score.spelled(numbers[numbers >= 0].tolist(), self._alphabet)
            self._tally.add(score.heard(row[:steps], self._alphabet), said)

    def result(self) -> dict[str, float]:
        """See `score.Tally.result`."""
        return self._tally.result()


def filled_up(spectra: list[np.ndarray]) -> Tensors:
    """Spectrograms (frames, bins) as one array and its mask, filled up to an even length."""
    longest = -(-max(map(len, spectra)) // FRAMES_EVEN) * FRAMES_EVEN
    values = np.zeros((len(spectra), longest, spectra[0].shape[1]), np.float32)
    mask = np.zeros((len(spectra), longest), np.int64)
    for place, each in enumerate(spectra):
        values[place, : len(each)] = each
        mask[place, : len(each)] = 1
    return {FEATURES: values, MASK: mask}


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return SpeechRecognition(recipe, folder, base)
