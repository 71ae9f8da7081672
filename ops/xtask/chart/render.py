"""The chart as Helm 3 and 4 render it: accepted by lint and by the schemas of three versions of Kubernetes, the same as what is kept,
and never with another value in a field that Kubernetes does not let change."""

import functools
import json
import warnings

import kubernetes_validate
import pydantic

from common import CHART, HELM, KUBERNETES, ROOT, Failures, kept, run
from manifests import VALUES, brief, identity, named, rendered, shown

with warnings.catch_warnings():
    # The models inherit fields in a way that pydantic does not like, and that is no concern of ours.
    warnings.simplefilter("ignore")
    from cloudcoil.models.cert_manager import v1 as cert_manager
    from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

MODELS = {
    "monitoring.coreos.com/v1": prometheus_operator,
    "cert-manager.io/v1": cert_manager,
}
IMMUTABLE = CHART / "ci/immutable.json"


@functools.cache
def strict(model):
    """A model of a custom resource that accepts no field that it does not know, at any depth."""
    seen = {}

    def of(kind):
        if kind not in seen:
            seen[kind] = kind
            kind.model_config["extra"] = "forbid"
            for field in kind.model_fields.values():
                for inner in models_in(field.annotation):
                    of(inner)
            kind.model_rebuild(force=True)
        return kind

    return of(model)


def models_in(annotation):
    """Models that an annotation of a type names."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)


def problem_of(manifest, version):
    """What is wrong with an object by the schema of its kind, or nothing."""
    group = manifest["apiVersion"]
    try:
        if group in MODELS:
            strict(getattr(MODELS[group], manifest["kind"])).model_validate(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    except pydantic.ValidationError as error:
        return str(error)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return getattr(error, "message", str(error))
    return None


def immutable(manifest):
    """The fields of an object that Kubernetes lets nobody change."""
    spec, kind = manifest.get("spec", {}), manifest["kind"]
    if kind == "Deployment":
        return {"selector": spec["selector"]}
    if kind == "StatefulSet":
        mutable = {"replicas", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds", "ordinals", "revisionHistoryLimit"}
        return {name: value for name, value in spec.items() if name not in mutable}
    if kind == "Service":
        return {name: spec[name] for name in ("clusterIP", "loadBalancerClass") if name in spec}
    return {}


def changed(before, now):
    """Sentences about immutable fields that another version has otherwise."""
    for name, fields in before.items():
        if name in now and now[name] != fields:
            yield f"{name}: an immutable field was {json.dumps(fields, sort_keys=True)} and is {json.dumps(now[name], sort_keys=True)}"


def lint(failures, values):
    """`helm lint --strict`, of both."""
    for helm, program in HELM.items():
        code, said, errors = run(program, "lint", "--strict", CHART, "--values", values)
        failures.check(code == 0, f"{helm} lint {values.name}: {said}{errors}")


def templates(failures, values):
    """Each Helm and each Kubernetes gives the same objects, and each object is one."""
    reference = rendered(values)
    for helm in HELM:
        for version in KUBERNETES:
            manifests = rendered(values, helm, version)
            same = shown(manifests) == shown(reference)
            failures.check(same, f"{values.name}: {helm} for Kubernetes {version} renders something else")
            for manifest in manifests:
                problem = problem_of(manifest, version)
                failures.check(problem is None, f"{values.name}, Kubernetes {version}: {identity(manifest)}: {problem}")
    names = [identity(manifest) for manifest in reference]
    failures.check(len(set(names)) == len(names), f"{values.name}: two objects have one name: {names}")
    return reference


def upgrade(failures, all_fields):
    """An upgrade from the last version must not need what Kubernetes refuses. What is new is added to what is kept; what is kept
    changes by hand alone, with a new major version of the chart."""
    before = json.loads(IMMUTABLE.read_text()) if IMMUTABLE.exists() else {}
    for name, fields in all_fields.items():
        for sentence in changed(before.get(name, {}), fields):
            failures.check(False, f"{name}-values.yaml: {sentence}")
        failures.checked += len(fields)
    merged = {name: fields | before.get(name, {}) for name, fields in all_fields.items()}
    kept(failures, IMMUTABLE, json.dumps(merged, indent=2, sort_keys=True) + "\n")


def checks_find_what_they_look_for(failures, manifests):
    """A planted mistake for each kind of check."""
    for manifest in manifests:
        copy = json.loads(json.dumps(manifest))
        copy["spec" if "spec" in copy else "metadata"]["planted"] = True
        found = problem_of(copy, KUBERNETES[0])
        failures.check(found, f"{identity(manifest)}: the schema accepts a field that does not exist")
        fields = immutable(manifest)
        if fields:
            planted = {name: "other" for name in fields}
            failures.check(list(changed({"x": fields}, {"x": planted})), f"{identity(manifest)}: a changed immutable field is not found")


def main():
    failures = Failures()
    all_fields, kinds = {}, {}
    for values in VALUES:
        lint(failures, values)
        manifests = templates(failures, values)
        kept(failures, CHART / f"ci/golden/{named(values)}.yaml", shown(brief(manifests)))
        all_fields[named(values)] = {identity(manifest): immutable(manifest) for manifest in manifests if immutable(manifest)}
        kinds |= {manifest["kind"]: manifest for manifest in manifests if manifest["kind"] != "ConfigMap"}
    upgrade(failures, all_fields)
    checks_find_what_they_look_for(failures, kinds.values())
    print(f"{len(VALUES)} values files in {CHART.relative_to(ROOT)}/ci, {', '.join(HELM)}, Kubernetes {', '.join(KUBERNETES)}, {len(kinds) + 1} kinds")
    failures.end("render")


if __name__ == "__main__":
    main()
