"""The sections of params.yaml, typed: one for each stage, and one for studies."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kka.describing.asking import Sampling
from kka.describing.guard import Thresholds


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Round(Section):
    prev: str


class Prepare(Section):
    """`options` go to the data set's `load`; `feedback` is a folder of pictures that inspectors have judged."""

    dataset: str = "blossom"
    image_size: int = Field(32, ge=8)
    feedback: str = Field("feedback", min_length=1)
    options: dict[str, Any] = {}

    @property
    def squeeze(self) -> bool:
        """Whether pictures that are not square are squeezed into one, instead of cut."""
        return bool(self.options.get("squeeze", False))


class Guard(Section):
    """A description is a normal look-alike when it is as similar to a normal caption as all but the `normal_quantile`
    of the calibration captions are; unreadable when its least likely token lies `readable_margin` nats below the
    `readable_quantile` of theirs."""

    normal_quantile: float = Field(0.05, ge=0, le=1)
    readable_quantile: float = Field(0.02, ge=0, le=1)
    readable_margin: float = Field(3.0, ge=0)

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(
            normal_quantile=self.normal_quantile,
            readable_quantile=self.readable_quantile,
            readable_margin=self.readable_margin,
        )


class Weights(Section):
    """How the language model's weights are held: `device_map` auto spreads them over GPUs and memory."""

    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device_map: Literal["auto"] | None = None
    load_in_4bit: bool = False


class Describe(Section):
    """`instruction` may hold {examples}: `examples` normal captions, drawn anew for each prompt. With an `endpoint` a
    server that speaks OpenAI's protocol has the `model`, and there is nothing to align."""

    model: str = "kka/mini/lm"
    weights: Weights = Weights()
    endpoint: str | None = Field(None, pattern=r"^https?://[^/\s]+")
    instruction: str = "caption:"
    examples: int = Field(0, ge=0)
    count: int = Field(200, ge=1)
    attempts: int = Field(1500, ge=1)
    temperature: float = Field(1.0, gt=0)
    min_p: float = Field(0.05, ge=0, lt=1)
    max_new_tokens: int = Field(40, ge=1)
    batch_size: int = Field(64, ge=1)
    guard: Guard = Guard()

    @property
    def sampling(self) -> Sampling:
        """How the language model is asked."""
        return Sampling(
            instruction=self.instruction,
            examples=self.examples,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            min_p=self.min_p,
        )


class Synthesize(Section):
    """`options` go to the synthesizer; `controls` normal captions are rendered too, half of them to train with.
    `match_spectrum` gives all pictures the spectrum of real ones, as that half shows it."""

    synthesizer: str = "diffusion"
    controls: int = Field(128, ge=0)
    match_spectrum: bool = True
    micro_batch: int = Field(32, ge=1)
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _has_what_it_compares(self) -> "Synthesize":
        if self.match_spectrum and self.controls < 2:
            raise ValueError(
                "match_spectrum compares generated normals with real ones: set controls to 2 or more, or it to false"
            )
        return self


class Assess(Section):
    """Hard: at or below the `quantile` of the calibration normals' scores. Easy: the `easy_share` that scores highest
    of the rest."""

    quantile: float = Field(0.95, ge=0, le=1)
    easy_share: float = Field(1.0, ge=0, le=1)


class Schedule(Section):
    """The hard proportion of the training anomalies rises linearly from `start` in round one to `end` in round
    `rounds`."""

    start: float = Field(0.1, ge=0, le=1)
    end: float = Field(0.3, ge=0, le=1)
    rounds: int = Field(3, ge=1)


class Detect(Section):
    """`options` are the detector's hyperparameters. It is fitted from `seeds` seeds: the first is the round's, the
    others tell how far its figures wander."""

    detector: str = "bce"
    seeds: int = Field(3, ge=1)
    hard_proportion: Schedule = Schedule()
    options: dict[str, Any] = {}


class Lora(Section):
    r: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class Health(Section):
    """An adapter below either fraction, of `sample` descriptions, goes only part of the way; below it at an eighth, the
    round stops."""

    sample: int = Field(200, ge=10)
    readable: float = Field(0.85, ge=0, le=1)
    distinct: float = Field(0.85, ge=0, le=1)


class Align(Section):
    """DPO: the `chosen_share` of descriptions that scores lowest against the `rejected_share` that scores highest.
    Ranked are `candidates` fresh descriptions and the rendered ones, by a surrogate; without candidates the rendered
    ones, by their own scores. Of the rejected, `refused_share` are texts that the guard refused; `sft` weighs the SFT
    loss on the chosen."""

    enabled: bool = True
    candidates: int = Field(1500, ge=0)
    chosen_share: float = Field(0.2, gt=0, lt=1)
    rejected_share: float = Field(0.5, gt=0, lt=1)
    refused_share: float = Field(0.3, ge=0, lt=1)
    pairs: int = Field(1000, ge=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    steps: int = Field(60, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(7e-4, gt=0)
    beta: float = Field(0.3, gt=0)
    sft: float = Field(1.0, ge=0)
    lora: Lora = Lora()
    health: Health = Health()


class Evaluate(Section):
    bootstrap: int = Field(1000, ge=0)
    interval: float = Field(0.95, gt=0, lt=1)


class Dimension(Section):
    """What a study may set a value to: from `low` to `high`, on a logarithmic scale or in steps; or one of the
    `choices`."""

    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(None, gt=0)
    choices: list[Any] | None = None


class Confirm(Section):
    """The `top` trials and the defaults are run again on so many fresh `seeds` before a winner is named."""

    top: int = Field(2, ge=0)
    seeds: int = Field(5, ge=2)


class Tune(Section):
    """A study of Optuna. `space` names what it may change, by path; `objective` says what it looks at: a fixed panel of
    generated anomalies, or the labels of the validation split. `pareto` looks at the number of generated images too."""

    study: str = Field("kka", pattern=r"^[A-Za-z0-9][\w.-]*$")
    objective: Literal["panel", "validation"] = "panel"
    pareto: bool = False
    trials: int = Field(20, ge=1)
    timeout: float | None = Field(None, gt=0)
    workers: int = Field(1, ge=1)
    fits: int = Field(1, ge=1)
    storage: str | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    confirm: Confirm = Confirm()
    space: dict[str, Dimension] = {}

    @model_validator(mode="after")
    def _dimensions_are_ranges_or_choices(self) -> "Tune":
        for path, d in self.space.items():
            if d.choices is not None:
                if len(d.choices) < 2 or (d.low, d.high, d.step) != (None, None, None) or d.log:
                    raise ValueError(
                        f"tune.space: {path} wants two choices or more and nothing beside them, or low and high"
                    )
            elif d.low is None or d.high is None:
                raise ValueError(f"tune.space: {path} wants low and high, or choices")
            elif d.low >= d.high:
                raise ValueError(f"tune.space: {path} wants low below high, got {d.low:g} and {d.high:g}")
            elif d.log and (d.low <= 0 or d.step is not None):
                raise ValueError(f"tune.space: {path} wants low above 0 and no step on a logarithmic scale")
        return self
