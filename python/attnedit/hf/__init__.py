"""import attnedit.hf: transformers' Auto classes then load folders of model_type attnedit without remote code."""

from transformers import AutoConfig, AutoModelForCausalLM

from attnedit.hf.modeling_attnedit import AttnEditConfig, AttnEditForCausalLM

__all__ = ["AttnEditConfig", "AttnEditForCausalLM"]

AutoConfig.register(AttnEditConfig.model_type, AttnEditConfig, exist_ok=True)
AutoModelForCausalLM.register(AttnEditConfig, AttnEditForCausalLM, exist_ok=True)
