"""Fine-tuning's keys: what a run's weights begin as, and which of them stay for a while."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from biggan.config.section import NonNegative, Section


class InitConfig(Section):
    """What the weights begin as. As it stands, drawn from the seed. docs/fine-tuning.md says what is taken."""

    source: Annotated[str, Field(alias="from")] = ""
    """An export, a run (`RUN`, `RUN@STEP`, `RUN@best`, `RUN@good`) or a checkpoint's folder whose averaged generator,
    and discriminator if there is one, the run begins as. Read once: a run that goes on does not need it."""
    neighbours: tuple[str, ...] = ()
    """What classes that the source does not know begin as: `NEW=KNOWN`, or `NEW=A+B` for the mean of several. One that
    is not named begins as the mean of all the source's classes."""
    freeze_d_blocks: NonNegative = 0
    """The discriminator's first blocks, at the image, whose weights stay (freezeD; Mo et al. 2020)."""
    freeze_d_steps: NonNegative = 0
    """For so many generator steps from the run's first."""
    freeze_g_blocks: NonNegative = 0
    """The generator's first blocks, at the lowest resolution, whose weights stay with those of the layer before them.
    What belongs to single classes is always trained."""
    freeze_g_steps: NonNegative = 0
    """For so many generator steps from the run's first."""

    @model_validator(mode="after")
    def _have_an_effect(self) -> InitConfig:
        given = [key for key in type(self).model_fields if key != "source" and getattr(self, key)]
        if given and not self.source:
            raise ValueError(f"init.{given[0]}: has no effect without init.from; give that too, or leave it out")
        for network in "gd":
            blocks, steps = f"freeze_{network}_blocks", f"freeze_{network}_steps"
            for key, other in ((blocks, steps), (steps, blocks)):
                if getattr(self, key) and not getattr(self, other):
                    raise ValueError(f"init.{key}: has no effect without init.{other}; give that too, or leave it out")
        for neighbour in self.neighbours:
            if "=" not in neighbour[1:-1]:
                raise ValueError(f"init.neighbours: '{neighbour}'; write NEW=KNOWN, or NEW=A+B for the mean of several")
        return self
