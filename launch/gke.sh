#!/usr/bin/env bash
# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains a configuration on TPUs of a cluster of GKE: builds the project's image and pushes it,
# submits a workload (a JobSet through kubectl, or through xpk), and watches it until it ends. The
# cluster starts it again after preemptions and after faults that a restart cures, which the exit
# codes tell. After an interruption the same command watches it again. Or its pods make a share each
# of a sweep, or of what nbp.prepare, nbp.encode or nbp.evaluate make. See docs/launching.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/gke.sh --name NAME --type TYPE --cluster CLUSTER --zone ZONE --project PROJECT
                     --image REPOSITORY/IMAGE:TAG [options] CONFIG WORKDIR [--config.a.b=VALUE ...]
  --name NAME        of the workload
  --type TYPE        TPU of one slice, such as v5litepod-16, v5p-64 or v6e-64
  --cluster CLUSTER  with a node pool of that type, and JobSet installed (xpk sets both up)
  --zone ZONE        or region of the cluster (default: CLOUDSDK_COMPUTE_ZONE)
  --project PROJECT  default: the environment variable CLOUDSDK_CORE_PROJECT
  --image IMAGE      where the image is pushed to, with a tag of its own
  --no-build         the image is there already
  --engine ENGINE    jobset (default) or xpk
  --claim CLAIM      persistent volume claim, mounted as /data; WORKDIR and the data should lie
                     there (jobset; with xpk, attach storage to the cluster: xpk storage attach)
  --queue QUEUE      local queue of Kueue (jobset)
  --sweep N          CONFIG is the file of a sweep (nbp.sweep), without overrides: N machines of one
                     host share its runs (jobset)
  --array N          in place of CONFIG and WORKDIR stand nbp.prepare, nbp.encode or nbp.evaluate with
                     its flags: N machines of one host get a share each, --shard I/N, and the last
                     to end finishes the whole (jobset)
  --restarts N       further starts, after preemptions and faults, at most (default 50)
  --grace SECONDS    to save in when a node is taken away (default 120)
  --poll SECONDS     between two looks at the state (default 30)
  --delete           delete the workload when this script ends, for whatever reason
  --dry-run          print the commands, and what they read, and stop
The environment variable PYTHON names the interpreter that checks the configuration here, before
anything is built (default python).
example:
  launch/gke.sh --name ucf-700m --type v5p-64 --cluster tpus --zone us-east5-a --project my-project \
    --image us-docker.pkg.dev/my-project/nbp/nbp:2026-01-01 --claim nbp-data \
    configs/ucf101/generator_700m.py /data/runs/ucf101 --config.data.root=/data/ucf101
  launch/gke.sh --name scaling --type v5litepod-8 --cluster tpus --zone us-east5-a \
    --project my-project --image us-docker.pkg.dev/my-project/nbp/nbp:2026-01-01 --claim nbp-data \
    --sweep 4 configs/sweeps/scaling.py /data/runs/scaling
  launch/gke.sh --name tokens --type v5litepod-8 --cluster tpus --zone us-east5-a \
    --project my-project --image us-docker.pkg.dev/my-project/nbp/nbp:2026-01-01 --claim nbp-data \
    --array 4 nbp.encode --workdir /data/runs/ucf101 --data /data/ucf101 --out /data/ucf101_tokens
TEXT
}

# shellcheck source=launch/cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"

name='' type='' cluster='' zone=${CLOUDSDK_COMPUTE_ZONE-} project=${CLOUDSDK_CORE_PROJECT-} image=''
engine=jobset claim='' queue='' sweep='' array='' restarts=50 grace=120 poll=30 build=true
while [[ $# -gt 0 ]]; do
  case $1 in
    --no-build) build=false ;;
    --delete) delete=true ;;
    --dry-run) dry_run=true ;;
    --name | --type | --cluster | --zone | --project | --image | --engine | --claim | --queue)
      [[ -n ${2-} && $2 != --* ]] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --restarts | --grace | --poll | --sweep | --array)
      [[ ${2-} =~ ^[0-9]+$ ]] || fail "$1 needs a number"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "unknown option $1; --help lists them" ;;
    *) break ;;
  esac
  shift
done
for option in name type cluster zone project image; do
  [[ -n ${!option} ]] || fail "--$option is missing; nothing was created"
done
names='^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$' # the pods' names, which are longer, have a limit of 63
for option in name claim queue; do
  [[ -z ${!option} || ${!option} =~ $names ]] ||
    fail "--$option ${!option}: use lower-case letters, digits and hyphens, a letter first, 40 at most"
done
[[ $image =~ ^[a-z0-9][-a-z0-9./:_]*(:[A-Za-z0-9_][-A-Za-z0-9_.]*|@sha256:[0-9a-f]{64})$ && $image != *:latest ]] ||
  fail "--image $image: name a repository and a tag other than latest, such as REPOSITORY/nbp:1"
[[ $engine == jobset || $engine == xpk ]] || fail "--engine $engine: use jobset or xpk"
[[ $engine == jobset || -z $claim$queue ]] || fail "--claim and --queue are for --engine jobset"
[[ $# -ge 2 ]] || fail "name CONFIG and WORKDIR; --help shows how"
for option in sweep array; do
  [[ -z ${!option} || $engine == jobset ]] || fail "--$option is for --engine jobset"
  [[ -z ${!option} || ${!option} -ge 1 ]] || fail "--$option needs a number from 1"
done
[[ -z $sweep || -z $array ]] || fail "--sweep and --array: give one of them"
shares=$sweep$array # pods that work each for itself; empty for a training
if [[ -n $array ]]; then
  [[ $1 =~ ^nbp\.(prepare|encode|evaluate)$ ]] || fail "--array is for nbp.prepare, nbp.encode and nbp.evaluate"
  [[ ! " $* " =~ " --shard"[=\ ] ]] || fail "--shard comes from --array; leave it out"
  ! [[ $* =~ --(workdir|out|data|videos)[\ =][^/] ]] || fail "name absolute paths on storage that all hosts share"
else
  [[ $1 != nbp.* ]] || fail "$1 needs --array N"
  [[ $1 == configs/* && -f $root/${1%%:*} ]] || fail "no configuration ${1%%:*} in $root/configs, which the image holds"
  [[ $2 == /* ]] || fail "WORKDIR $2: name an absolute path on storage that all hosts share"
fi
if [[ -n $array ]]; then
  look=() distributed='"off"' # quoted, it is no boolean
  # shellcheck disable=SC2016 # each pod's own shell puts its number in
  training=(bash -c 'exec "$@" --shard "$JOB_COMPLETION_INDEX/$0"' "$array")
  training+=(python -u -m "$@")
elif [[ -n $sweep ]]; then
  [[ $# -eq 2 ]] || fail "--sweep takes FILE and WORKDIR; overrides stand in the file"
  look=(nbp.sweep "$1" --workdir "$2" --dry_run) distributed='"off"' # quoted, it is no boolean
  # shellcheck disable=SC2016 # each pod's own shell puts its number in
  training=(bash -c 'exec "$@" --index "$JOB_COMPLETION_INDEX"' sweep)
  training+=(python -u -m nbp.sweep "$1" --workdir "$2" --of "$sweep")
else
  look=(nbp.train --config "$1" --workdir "$2" --check "${@:3}") distributed=auto
  training=(python -u -m nbp.train --config "$1" --workdir "$2" "${@:3}")
fi

[[ -n $array ]] || check "${look[@]}"

# What a slice of the type consists of: accelerator and topology as labels of GKE, hosts, chips.
describe_type() {
  local size=${type##*-} chips
  case $type in
    v5litepod-*) accelerator=tpu-v5-lite-podslice chips=$size ;;
    v6e-*) accelerator=tpu-v6e-slice chips=$size ;;
    v5p-*) accelerator=tpu-v5p-slice chips=3d-$size ;;
    *) fail "--type $type: use v5litepod-N, v5p-N or v6e-N, or --engine xpk" ;;
  esac
  case $chips in
    1) topology=1x1 hosts=1 per_host=1 ;;
    4) topology=2x2 hosts=1 per_host=4 ;;
    8) topology=2x4 hosts=1 per_host=8 ;;
    16) topology=4x4 hosts=4 per_host=4 ;;
    32) topology=4x8 hosts=8 per_host=4 ;;
    64) topology=8x8 hosts=16 per_host=4 ;;
    128) topology=8x16 hosts=32 per_host=4 ;;
    256) topology=16x16 hosts=64 per_host=4 ;;
    3d-8) topology=2x2x1 hosts=1 per_host=4 ;; # v5p counts cores, two on each chip
    3d-16) topology=2x2x2 hosts=2 per_host=4 ;;
    3d-32) topology=2x2x4 hosts=4 per_host=4 ;;
    3d-64) topology=2x4x4 hosts=8 per_host=4 ;;
    3d-128) topology=4x4x4 hosts=16 per_host=4 ;;
    3d-256) topology=4x4x8 hosts=32 per_host=4 ;;
    3d-512) topology=4x8x8 hosts=64 per_host=4 ;;
    *) fail "--type $type: no slice has this size" ;;
  esac
}
[[ $engine == xpk ]] || describe_type
if [[ -n $shares ]]; then
  [[ $hosts -eq 1 ]] || fail "--type $type has $hosts hosts: a share of a sweep or an array has one"
  hosts=$shares # pods of one job, each with its number
fi

# A text as a string of JSON, which YAML understands.
json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\t'/\\t}
  printf '"%s"' "${text//$'\n'/\\n}"
}

# Exit codes 42 and 127 to 255 start the whole workload again, others end it. Of shares they start the
# one again, or end it, and the others go on.
manifest() {
  local argument codes
  codes=42,$(seq -s , 127 255)
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
YAML
  [[ -n $shares ]] || cat <<YAML
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
YAML
  [[ -z $queue ]] || printf '  labels:\n    kueue.x-k8s.io/queue-name: %s\n' "$queue"
  cat <<YAML
spec:
  failurePolicy:
    maxRestarts: $([[ -n $shares ]] && echo 0 || echo "$restarts")
    rules:
      - name: notCured
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
$(restarting)
                onExitCodes:
                  containerName: nbp
                  operator: NotIn
                  values: [$codes]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
              tolerations:
                - key: google.com/tpu
                  operator: Exists
              containers:
                - name: nbp
                  image: $(json "$pinned")
                  securityContext:
                    privileged: true
                  env:
                    - name: NBP_DISTRIBUTED
                      value: $distributed
                  command:
YAML
  for argument in "${training[@]}"; do
    printf '                    - %s\n' "$(json "$argument")"
  done
  cat <<YAML
                  resources:
                    limits:
                      google.com/tpu: $per_host
                  volumeMounts:
                    - name: shm
                      mountPath: /dev/shm
YAML
  [[ -z $claim ]] || printf '                    - name: data\n                      mountPath: /data\n'
  cat <<YAML
              volumes:
                - name: shm
                  emptyDir:
                    medium: Memory
YAML
  [[ -z $claim ]] || printf '                - name: data\n                  persistentVolumeClaim:\n                    claimName: %s\n' "$claim"
}

# What of a job's specification decides on restarts, down to the action for the other exit codes.
restarting() {
  if [[ -z $shares ]]; then
    cat <<YAML
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
YAML
  else
    cat <<YAML
          backoffLimitPerIndex: $restarts
          podFailurePolicy:
            rules:
              - action: Ignore
                onPodConditions:
                  - type: DisruptionTarget
              - action: FailIndex
YAML
  fi
}

place=(--cluster "$cluster" --zone "$zone" --project "$project")
pods="jobset.sigs.k8s.io/jobset-name=$name"
case $engine in
  jobset) removal=(kubectl delete jobset "$name" --ignore-not-found) ;;
  xpk) removal=(xpk workload delete "${place[@]}" --workload "$name" --force) ;;
esac

risk=run left="the workload $name is still there"
tidy_at_end

# Builds the image, pushes it, and puts its name with the hash of its contents into `pinned`.
publish() {
  pinned=$image
  if $build; then
    if ! run docker build --build-arg ACCELERATOR=tpu --build-arg RUN_AS=root --tag "$image" "$root" ||
      ! run docker push "$image"; then
      fail "the image could not be built or pushed; no workload was created" 1
    fi
  fi
  [[ $image != *@sha256:* ]] || return 0
  $build || return 0
  if $dry_run; then
    show docker inspect --format='{{index .RepoDigests 0}}' "$image"
    pinned=${image%:*}@sha256:DIGEST
  else
    pinned=$(docker inspect --format='{{index .RepoDigests 0}}' "$image") || fail "$image has no digest; was it pushed?" 1
  fi
}

submit_jobset() {
  # The access to the cluster goes into a file that this script removes, not into the user's.
  export KUBECONFIG=$scratch/kubeconfig
  run gcloud container clusters get-credentials "$cluster" --location="$zone" --project="$project" ||
    fail "no access to the cluster $cluster (gcloud says why above); nothing was created" 1
  if $dry_run; then
    show kubectl get jobset "$name" --ignore-not-found --output=name
  elif [[ -n $(kubectl get jobset "$name" --ignore-not-found --output=name) ]]; then
    touched=true
    say "the workload $name is there already and is only watched"
    return
  fi
  publish
  if $dry_run; then
    show kubectl apply --filename=-
    manifest
    return
  fi
  touched=true
  if ! manifest | kubectl apply --filename=-; then
    "${removal[@]}" || true # nothing, or what does not work
    touched=false
    fail "the workload $name could not be created (kubectl says why above); nothing is left running" 1
  fi
}

# Shows the output of the first host, of one start after another, until the workload has ended.
watch_jobset() {
  local logs=(kubectl logs --follow --tail=-1 --selector="$pods,batch.kubernetes.io/job-completion-index=0")
  local look=(kubectl get jobset "$name" "--output=jsonpath={.status.terminalState}")
  local codes=(kubectl get pods --selector="$pods"
    "--output=jsonpath={range .items[*]}{.status.containerStatuses[0].state.terminated.exitCode}{' '}{end}")
  if $dry_run; then
    show "${logs[@]}"
    show "${look[@]}"
    show "${codes[@]}"
    return
  fi
  local state='' failures=0 one code
  until [[ $state == Complete* || $state == Failed ]]; do
    await "${logs[@]}" || true # there is no host yet, or it is gone
    await sleep "$poll"
    if state=$("${look[@]}"); then
      failures=0
    else
      failures=$((failures + 1))
      [[ $failures -lt 20 ]] || fail "kubectl cannot tell the state of $name" 1
    fi
  done
  [[ $state == Failed ]] || return 0
  code=1
  for one in $("${codes[@]}" || true); do
    if [[ $one -ne 0 && ($code -eq 1 || ($one -ge 2 && $one -le 5)) ]]; then
      code=$one
    fi
  done
  fail "the workload failed with exit code $code" "$code"
}

submit_xpk() {
  run xpk config set send-telemetry false || fail "xpk does not work; nothing was created" 1
  publish
  touched=true
  # exec: the training, not a shell around it, must get the signal to save.
  if ! run xpk workload create "${place[@]}" --workload "$name" --tpu-type "$type" --num-slices 1 \
    --docker-image "$pinned" --max-restarts "$restarts" --termination-grace-period-seconds "$grace" \
    --env NBP_DISTRIBUTED=auto --command "exec $(show "${training[@]}")"; then
    run "${removal[@]}" || true # nothing, or what does not work
    touched=false
    fail "the workload $name could not be created (xpk says why above); nothing is left running" 1
  fi
}

watch_xpk() {
  local code=0
  await run xpk workload list "${place[@]}" --wait-for-job-completion "$name" || code=$?
  [[ $code -eq 0 ]] || fail "the workload failed, or its state is unknown (xpk says why above)" "$code"
}

if ! $dry_run; then
  tools=(gcloud)
  if [[ $engine == jobset ]]; then tools+=(kubectl); else tools+=(xpk); fi
  ! $build || tools+=(docker)
  for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed; nothing was created"
  done
fi
"submit_$engine"
"watch_$engine"
if $dry_run; then
  touched=$delete
fi
