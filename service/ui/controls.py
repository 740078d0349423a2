"""The controls that drawing tabs share, and how their values become the body of a request and come back from one."""

from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from service.catalogue.samplers import SAMPLERS, SCHEDULERS
from service.catalogue.upscalers import LATENT_MODES
from service.imaging import infotext
from service.ui.texts import Texts, names

SIZES: Final = ("512 × 512", "512 × 768", "768 × 512", "768 × 768", "1024 × 1024", "832 × 1216", "1216 × 832")
"""What SD 1.x, 2.x and XL were trained on."""


@dataclass(slots=True)
class Controls:
    """The controls of one tab: ``fields`` by the name that the API gives their value."""

    tab: str
    fields: dict[str, Any] = field(default_factory=dict)
    preset: Any = None
    swap: Any = None
    dice: Any = None
    reuse: Any = None
    lora: Any = None
    fit: Any = None

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order of :attr:`fields`."""
        return list(self.fields.values())

    def body(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The fields of a request from the components' values; what was left empty stays away."""
        body = {
            name: value
            for name, value in zip(self.fields, values, strict=True)
            if value is not None and value != []
        }
        if "denoising_strength" in body and self.tab == "txt2img" and not body.get("enable_hr"):
            del body["denoising_strength"]
        return body


def prompts(t: Texts, tab: str) -> Controls:
    """The two prompts, styles and the LoRA picker."""
    controls = Controls(tab)
    controls.fields["prompt"] = t(gr.Textbox, t="prompt", lines=3, max_lines=12, elem_id=f"{tab}-prompt")
    controls.fields["negative_prompt"] = t(
        gr.Textbox, t="negative", lines=2, max_lines=8, elem_id=f"{tab}-negative"
    )
    with gr.Row(elem_classes="sd-tight"):
        controls.fields["styles"] = t(
            names,
            t="styles",
            choices=[],
            multiselect=True,
            elem_id=f"{tab}-styles",
            min_width=140,
        )
        controls.lora = t(names, t="lora", choices=[], value=None, elem_id=f"{tab}-lora", min_width=140)
    return controls


def settings(t: Texts, controls: Controls, *, drawn_from: bool) -> None:
    """Sampler, size, guidance, seed, batch. ``drawn_from``: there is a picture to begin with."""
    tab, fields = controls.tab, controls.fields
    with gr.Row(elem_classes="sd-tight"):
        fields["sampler_name"] = t(
            gr.Dropdown,
            t="sampler",
            choices=[sampler.name for sampler in SAMPLERS],
            value="DPM++ 2M",
            elem_id=f"{tab}-sampler",
            min_width=140,
        )
        fields["scheduler"] = t(
            gr.Dropdown,
            t="scheduler",
            choices=[(scheduler.label, scheduler.name) for scheduler in SCHEDULERS],
            value="automatic",
            elem_id=f"{tab}-scheduler",
            min_width=140,
        )
    with gr.Row(elem_classes="sd-tight"):
        fields["steps"] = t(gr.Slider, 1, 150, 20, t="steps", step=1, elem_id=f"{tab}-steps", min_width=180)
        fields["cfg_scale"] = t(gr.Slider, 1, 30, 7, t="cfg", step=0.5, elem_id=f"{tab}-cfg", min_width=180)
    with gr.Row(elem_classes="sd-tight"):
        fields["width"] = t(
            gr.Slider, 64, 2048, 512, t="width", step=8, elem_id=f"{tab}-width", min_width=180
        )
        fields["height"] = t(
            gr.Slider, 64, 2048, 512, t="height", step=8, elem_id=f"{tab}-height", min_width=180
        )
    with gr.Row(elem_classes="sd-tight sd-end"):
        controls.preset = t(
            gr.Dropdown, t="preset", choices=SIZES, value=None, elem_id=f"{tab}-preset", min_width=140
        )
        controls.swap = t(gr.Button, t="swap", size="md", elem_id=f"{tab}-swap", min_width=80)
        if drawn_from:
            controls.fit = t(gr.Button, t="fit", size="md", elem_id=f"{tab}-fit", min_width=80)
    with gr.Row(elem_classes="sd-tight sd-end"):
        fields["seed"] = t(gr.Number, t="seed", value=-1, precision=0, elem_id=f"{tab}-seed", min_width=140)
        controls.dice = t(gr.Button, t="dice", size="md", elem_id=f"{tab}-dice", min_width=80)
        controls.reuse = t(gr.Button, t="reuse", size="md", elem_id=f"{tab}-reuse", min_width=80)
    with gr.Row(elem_classes="sd-tight"):
        fields["n_iter"] = t(gr.Slider, 1, 32, 1, t="count", step=1, elem_id=f"{tab}-count", min_width=180)
        fields["batch_size"] = t(gr.Slider, 1, 8, 1, t="batch", step=1, elem_id=f"{tab}-batch", min_width=180)


def hires(t: Texts, controls: Controls) -> None:
    """A second, larger pass."""
    tab, fields = controls.tab, controls.fields
    with t(gr.Accordion, t="hires", open=False, elem_id=f"{tab}-hires"):
        fields["enable_hr"] = t(gr.Checkbox, t="hires.enable", elem_id=f"{tab}-enable-hr")
        with gr.Row(elem_classes="sd-tight"):
            fields["hr_upscaler"] = t(
                names, t="hires.upscaler", choices=LATENT_MODES, value="Latent", min_width=140
            )
            fields["hr_second_pass_steps"] = t(gr.Slider, 0, 150, 0, t="hires.steps", step=1, min_width=180)
        with gr.Row(elem_classes="sd-tight"):
            fields["hr_scale"] = t(gr.Slider, 1, 4, 2, t="hires.scale", step=0.05, min_width=180)
            fields["denoising_strength"] = t(
                gr.Slider, 0, 1, 0.7, t="hires.denoising", step=0.01, min_width=180
            )


def from_picture(t: Texts, controls: Controls) -> None:
    """How far the result may leave the picture that it begins with."""
    controls.fields["denoising_strength"] = t(
        gr.Slider, 0, 1, 0.75, t="denoising", step=0.01, elem_id=f"{controls.tab}-denoising"
    )
    controls.fields["resize_mode"] = t(
        gr.Radio,
        t="resize",
        choices=[(".stretch", 0), (".crop", 1), (".fill", 2), (".latent", 3)],
        value=0,
        elem_id=f"{controls.tab}-resize",
    )


def masked(t: Texts, controls: Controls) -> None:
    """What happens below the mask."""
    fields = controls.fields
    fields["mask_blur"] = t(gr.Slider, 0, 64, 4, t="blur", step=1, elem_id="inpaint-blur")
    fields["inpainting_mask_invert"] = t(
        gr.Radio, t="mask", choices=[(".painted", 0), (".rest", 1)], value=0, elem_id="inpaint-invert"
    )
    fields["inpainting_fill"] = t(
        gr.Radio,
        t="fill",
        choices=[(".fill", 0), (".original", 1), (".noise", 2), (".nothing", 3)],
        value=1,
        elem_id="inpaint-fill",
    )
    fields["inpaint_full_res"] = t(
        gr.Radio,
        t="area",
        choices=[(".whole", False), (".masked", True)],
        value=False,
        elem_id="inpaint-area",
    )
    fields["inpaint_full_res_padding"] = t(
        gr.Slider, 0, 256, 32, t="padding", step=4, elem_id="inpaint-padding"
    )


_PASTED: Final[dict[str, tuple[str, Any]]] = {
    "Prompt": ("prompt", str),
    "Negative prompt": ("negative_prompt", str),
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Size-1": ("width", int),
    "Size-2": ("height", int),
    "Denoising strength": ("denoising_strength", float),
    "Hires upscale": ("hr_scale", float),
    "Hires upscaler": ("hr_upscaler", str),
    "Hires steps": ("hr_second_pass_steps", int),
    "Mask blur": ("mask_blur", int),
}


def pasted(controls: Controls, text: str) -> list[Any]:
    """Updates that bring the controls to what an infotext says; what it does not say stays as it is."""
    said = infotext.parse(text) if text else {}
    values: dict[str, Any] = {}
    for key, (name, convert) in _PASTED.items():
        if key in said:
            try:
                values[name] = convert(said[key])
            except ValueError:
                continue
    if "scheduler" in values:
        values["scheduler"] = next(
            (one.name for one in SCHEDULERS if one.label == values["scheduler"]), "automatic"
        )
    if said and controls.tab == "txt2img":
        values["enable_hr"] = "Hires upscaler" in said or "Hires upscale" in said
    if said:
        values |= {"n_iter": 1, "batch_size": 1, "styles": []}
    return [gr.update(value=values[name]) if name in values else gr.skip() for name in controls.fields]
