"""Checkpoints that are shown images: what is taken, and what is refused with its reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import checkpoints
from llava import TEMPLATE, make_llava
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime import verify
from lmaas.types import LanguageSpec, Manifest, PushOptions, VisionSpec


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"))


def changed(path: Path, **values: Any) -> None:
    told = json.loads(path.read_text())
    for name, value in values.items():
        place, _, inner = name.partition("__")
        if inner:
            told[place][inner] = value
        else:
            told[place] = value
    path.write_text(json.dumps(told))


def processor(folder: Path, **values: Any) -> None:
    given = {f"image_processor__{name}": value for name, value in values.items()}
    changed(folder / "processor_config.json", **given)


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("another type", lambda f: changed(f / "config.json", model_type="gemma3"),
     "'gemma3' that take images are not served here; served are llava, llava_next"),
    ("no processor", lambda f: (f / "processor_config.json").unlink(),
     "does not say how images become pixels"),
    ("unknown processor", lambda f: processor(f, image_processor_type="PixtralImageProcessor"),
     "made ready by PixtralImageProcessor"),
    ("tiles without a model for them",
     lambda f: processor(f, image_processor_type="LlavaNextImageProcessor"), "do not fit"),
    ("no crop", lambda f: processor(f, do_center_crop=False), "expected a crop"),
    ("not resized", lambda f: processor(f, do_resize=False), "do_resize off"),
    ("vast", lambda f: processor(f, size={"shortest_edge": 9000}), "9000"),
    ("wide crop", lambda f: processor(f, crop_size={"height": 32, "width": 3200}), "3200"),
    ("another size", lambda f: processor(f, size={"shortest_edge": 48},
     crop_size={"height": 48, "width": 48}), "does not read 48 x 48 pixels"),
    ("a mean of two", lambda f: processor(f, image_mean=[0.5, 0.5]), "image_mean has 2 numbers"),
    ("no template", lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    ("a blind template", write("chat_template.jinja", checkpoints.CHATML), "expected <image>"),
    ("images twice", write("chat_template.jinja", TEMPLATE.replace("<image>", "<image><image>")),
     "expected <image>"),
    ("a template that refuses", write("chat_template.jinja", "{{ raise_exception('no') }}"),
     "does not render an image"),
    ("another token", lambda f: changed(f / "config.json", image_token_index=4000), "4000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"), [(c, t) for _, c, t in REFUSED],
    ids=[n for n, _, _ in REFUSED],
)  # fmt: skip
def test_what_is_not_served_is_refused(
    source: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    change(folder)
    with pytest.raises(ModelRefused, match=told):
        checkpoint.build(folder, tmp_path / "package", PushOptions(name="m"))


def test_a_small_context_has_no_room_for_an_image(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "small", max_position_embeddings=24)
    with pytest.raises(ModelRefused, match="An image is 16 tokens, and the model's context 24"):
        checkpoint.build(folder, tmp_path / "package", PushOptions(name="m"))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_tower_of_another_kind(tmp_path: Path) -> None:
    """SigLIP reads images stretched, and has no token of its own before their cells."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    folder = make_llava(tmp_path / "siglip")
    told = json.loads((folder / "config.json").read_text())
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            image_size=32, patch_size=8,
        ),
        text_config=told["text_config"],
        image_token_index=told["image_token_index"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=16,
    )  # fmt: skip
    torch.manual_seed(1)
    network = LlavaForConditionalGeneration(config)
    network.generation_config.eos_token_id = 2
    network.eval().save_pretrained(folder)
    settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    del settings["crop_size"], settings["do_center_crop"]
    settings |= {"image_processor_type": "SiglipImageProcessorFast",
                 "size": {"height": 32, "width": 32}}  # fmt: skip
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    package = tmp_path / "package"
    manifest = checkpoint.build(folder, package, PushOptions(name="m"))
    spec = manifest.signature.language
    assert spec is not None
    assert spec.vision is not None
    assert (spec.vision.resize, spec.vision.tokens) == ("stretch", 16)
    _refuses_contradictions(package, manifest, spec, spec.vision)


def _refuses_contradictions(
    package: Path, manifest: Manifest, spec: LanguageSpec, vision: VisionSpec
) -> None:
    """A package that somebody changed is refused before its graphs are run."""
    replace = msgspec.structs.replace
    for other in (
        replace(vision, token_id=100_000),
        replace(vision, tokens=0),
        replace(vision, height=1 << 20),
        replace(vision, std=(0.0, 1.0, 1.0)),
        replace(vision, resize="crop", short_side=0),
        replace(vision, grids=((48, 48),), side=4),
        replace(vision, grids=((3200, 3200),), side=4),
    ):
        signature = replace(manifest.signature, language=replace(spec, vision=other))
        written = replace(manifest, signature=signature)
        (package / "manifest.json").write_bytes(msgspec.json.encode(written))
        with pytest.raises(InvalidInput, match="vision has sizes or tokens that cannot be"):
            verify.run(msgspec.json.encode(verify.VerifyRequest(folder=str(package))))
    blind = replace(manifest.signature, language=replace(spec, vision=None))
    (package / "manifest.json").write_bytes(msgspec.json.encode(replace(manifest, signature=blind)))
    with pytest.raises(InvalidInput, match="says its vision"):
        verify.run(msgspec.json.encode(verify.VerifyRequest(folder=str(package))))
