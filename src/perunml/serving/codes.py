"""The rules of a service: its model, its requests, its time."""

from perunml.wire.rules import Kind, rule

MODEL_REFUSED = rule(
    "model_refused",
    Kind.INTEGRITY,
    "A served model is not an archive that is safe to load: pickled parts, native code, operators outside PyTorch's ATen, "
    "expressions that would be evaluated, or a broken form.",
    "The model's owner exports it again with torch.export from plain tensor code.",
)
ENGINE_UNKNOWN = rule(
    "engine_unknown",
    Kind.AGREEMENT,
    "The agreement names an engine that this version does not have.",
    "The parties name an engine of docs/serving.md, or the operator installs what the engine needs: `perunml agreement propose`.",
)
MODEL_UNKNOWN = rule(
    "model_unknown",
    Kind.USAGE,
    "The service has no such model, version or path.",
    "The client asks for the one model that there is, called as the service's job: `perunml job show RUN`.",
)
INPUTS_REFUSED = rule(
    "inputs_refused",
    Kind.USAGE,
    "The inputs of a request are not those of the model: names, shape, type, or a number that is not finite.",
    "The client sends what the message names: `perunml infer RUN FILE`.",
)
INFERENCE_FAILED = rule(
    "inference_failed",
    Kind.JOB,
    "The model failed on inputs of the right form, or gave a result that cannot be written as JSON.",
    "The model's owner looks at it with these inputs; nothing of the failure leaves the service.",
)
REQUEST_REPLAYED = rule(
    "request_replayed",
    Kind.AGREEMENT,
    "A request's id was seen before.",
    "The client makes a new request; a relay that repeats old ones gains nothing.",
)
REQUEST_NOT_FOR_THIS_SERVICE = rule(
    "request_not_for_this_service",
    Kind.AGREEMENT,
    "A request names another manager, agreement, run or session than the one that opened it, or a certificate that is over.",
    "The client fetches the service's certificate anew and asks again.",
)
QUOTA_EXHAUSTED = rule(
    "quota_exhausted",
    Kind.LIMIT,
    "The requests that the agreement allows in this window are used up.",
    "The client waits for the next window, or the parties agree on a higher limit: `perunml agreement propose`.",
)
BATCH_TOO_LARGE = rule(
    "batch_too_large",
    Kind.LIMIT,
    "A request has more rows than the agreement allows at once.",
    "The client sends fewer rows at once (`perunml infer RUN FILE`), or the parties agree on more: `perunml agreement propose`.",
)
SERVICE_BUSY = rule(
    "service_busy",
    Kind.LIMIT,
    "More requests came at once, or in the life of one certificate, than the service keeps account of.",
    "The client tries again in a moment: `perunml infer`.",
)
SERVICE_OVER = rule(
    "service_over",
    Kind.SUSPENDED,
    "The service's lease is over: its keys are wiped and it answers nobody.",
    "Its operator looks at the run's reasons at the manager (`perunml job show`); an owner may have suspended an asset.",
)
ENGINE_GONE = rule(
    "engine_gone",
    Kind.LIMIT,
    "The process that computes a service's answers ended, or took too long; it is started anew.",
    "The client tries again in a moment (`perunml infer`); with the same inputs failing again, the model's owner looks at the model.",
)
SERVICE_ADDRESS = rule(
    "service_address",
    Kind.USAGE,
    "The address at which a host is to offer services is not HOST:PORT of this machine, or somebody has it already.",
    "The operator gives another address: `perunml host run --services-listen HOST:PORT`.",
)
