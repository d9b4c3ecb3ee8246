"""What a folder's generation_config.json says, for whatever the caller leaves open."""

import warnings
from dataclasses import dataclass

from attnedit.checked import Length, checked
from attnedit.generate.options import Options, Token
from attnedit.generate.sampling import Sampling, Temperature, TopK, TopP
from attnedit.models import DecoderConfig

NEW_TOKENS = 128
SAMPLED_TOP_K = 50  # transformers' own, where a folder samples and names none
# Keys that change in transformers what is written and are not known here, with the values that change nothing.
NOT_APPLIED = {
    "repetition_penalty": 1, "min_p": 0, "typical_p": 1, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0,
    "min_new_tokens": 0, "penalty_alpha": 0, "epsilon_cutoff": 0, "eta_cutoff": 0, "bad_words_ids": [],
    "suppress_tokens": [], "begin_suppress_tokens": [], "forced_bos_token_id": [], "forced_eos_token_id": [],
    "sequence_bias": {}, "stop_strings": [],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The keys that are read here, in transformers' meaning; null means absent."""

    do_sample: bool = False
    temperature: Temperature = 1.0
    top_k: TopK | None = None
    top_p: TopP = 1.0
    max_new_tokens: Length = NEW_TOKENS
    eos_token_id: tuple[Token, ...] = ()  # a single number there is one of a list here

    @classmethod
    def of(cls, config: DecoderConfig) -> "GenerationConfig":
        """Raises ValueError in one line for values that mean nothing; warns of what is not applied."""
        stated = {key: value for key, value in config.generation.items() if value is not None}
        if isinstance(stated.get("eos_token_id"), int):
            stated["eos_token_id"] = [stated["eos_token_id"]]
        found = checked(cls, stated, "[generation_config.json] ", "ignore")
        left = [f"{key} {stated[key]}" for key, nothing in NOT_APPLIED.items() if stated.get(key, nothing) != nothing]
        if left:
            warnings.warn(f"[generation_config.json] not applied: {', '.join(left)}", stacklevel=4)
        return found

    def sampling(self, options: Options) -> Sampling:
        """The caller's numbers where there are some. A folder that does not sample is greedy, unless told otherwise."""
        temperature = options.temperature
        if temperature is None:
            temperature = self.temperature if self.do_sample else 0.0
        unused = [name for name in ("top_k", "top_p", "seed") if getattr(options, name)]
        if temperature == 0 and unused:
            said = "greedy, as nothing is drawn without a temperature above 0"
            warnings.warn(f"[generate] {', '.join(unused)} not used: {said}", stacklevel=4)
        top_k = self.top_k if options.top_k is None else options.top_k
        if top_k is None:
            top_k = SAMPLED_TOP_K if self.do_sample else 0
        return Sampling(temperature, top_k, self.top_p if options.top_p is None else options.top_p, options.seed)
