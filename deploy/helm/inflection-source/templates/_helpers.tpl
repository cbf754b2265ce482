{{- define "is.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "is.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "is.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What never changes in the life of a release. Called with (dict "root" $ "component" "ingest"). */}}
{{- define "is.selector" -}}
app.kubernetes.io/name: {{ include "is.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "is.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "is.selector" . }}
app.kubernetes.io/part-of: inflection-source
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "is.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $name }}{{ end -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" $name .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}
{{- end -}}

{{- define "is.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "is.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* Whether the whole configuration file is brought. */}}
{{- define "is.configBrought" -}}
{{- if or .Values.config.existingConfigMap .Values.config.existingSecret }}true{{ end -}}
{{- end -}}

{{/* The Secret whose entries are the files in /etc/inflection-source/secrets; empty when there is none. */}}
{{- define "is.secretName" -}}
{{- if .Values.secrets.existingSecret -}}
{{ .Values.secrets.existingSecret }}
{{- else if or .Values.secrets.create.enabled .Values.secrets.externalSecret.enabled -}}
{{ include "is.fullname" . }}-secrets
{{- end -}}
{{- end -}}

{{/* [installation] and [bus]: all that provision reads, and the head of the stages' file. */}}
{{- define "is.configHead" -}}
{{- $installation := .Values.installation -}}
{{- $secret := $installation.existingSecret -}}
{{- if or $installation.id (and $secret.name (or $secret.keyEntry $secret.masterKeyEntry)) }}
[installation]
{{- with $installation.id }}
id = {{ . | quote }}
{{- end }}
{{- if $secret.name }}
{{- with $secret.keyEntry }}
key = { file = "/etc/inflection-source/installation/{{ . }}" }
{{- end }}
{{- with $secret.masterKeyEntry }}
master_key = { file = "/etc/inflection-source/installation/{{ . }}" }
{{- end }}
{{- end }}
{{ end }}
[bus]
kind = "nats"
urls = [{{ range $i, $url := .Values.nats.urls }}{{ if $i }}, {{ end }}{{ $url | quote }}{{ end }}]
{{- with .Values.nats.monitorUrl }}
monitor_url = {{ . | quote }}
{{- end }}
{{- if .Values.nats.credsSecret.name }}
creds_file = "/etc/inflection-source/nats-creds/{{ .Values.nats.credsSecret.key }}"
{{- end }}
{{- if .Values.nats.caSecret.name }}
ca_file = "/etc/inflection-source/nats-ca/{{ .Values.nats.caSecret.key }}"
{{- end }}
{{- end -}}

{{/* Mistakes that a schema cannot see. */}}
{{- define "is.check" -}}
{{- if not (or .Values.admin.key .Values.admin.existingSecret.name) }}{{ fail "give admin.existingSecret.name, or admin.key for a trial" }}{{ end -}}
{{- if and .Values.admin.key .Values.admin.existingSecret.name }}{{ fail "admin.key and admin.existingSecret.name: give one" }}{{ end -}}
{{- if and .Values.config.existingConfigMap .Values.config.existingSecret }}{{ fail "config.existingConfigMap and config.existingSecret: give one" }}{{ end -}}
{{- if include "is.configBrought" . -}}
{{- if or .Values.config.workspaces .Values.nats.urls .Values.nats.monitorUrl .Values.installation.id }}{{ fail "with config.existingConfigMap or config.existingSecret, workspaces, bus and installation stand in that file: leave config.workspaces, nats.urls, nats.monitorUrl and installation.id empty" }}{{ end -}}
{{- else -}}
{{- if not .Values.nats.urls }}{{ fail "nats.urls is empty: give the addresses of the NATS servers" }}{{ end -}}
{{- if not .Values.config.workspaces }}{{ fail "config.workspaces is empty: give the [[workspaces]] part of the configuration file" }}{{ end -}}
{{- end -}}
{{- $sources := 0 -}}
{{- if .Values.secrets.existingSecret }}{{ $sources = add $sources 1 }}{{ end -}}
{{- if .Values.secrets.create.enabled }}{{ $sources = add $sources 1 }}{{ end -}}
{{- if .Values.secrets.externalSecret.enabled }}{{ $sources = add $sources 1 }}{{ end -}}
{{- if gt (int $sources) 1 }}{{ fail "secrets: give one of existingSecret, create and externalSecret" }}{{ end -}}
{{- if and .Values.secrets.externalSecret.enabled (not .Values.secrets.externalSecret.storeRef.name) }}{{ fail "secrets.externalSecret.storeRef.name is empty" }}{{ end -}}
{{- if and (lt (int .Values.provision.replicas) 3) (not .Values.nats.allowDegraded) }}{{ fail "provision.replicas below 3 does not survive the loss of a server: to use that all the same, set nats.allowDegraded" }}{{ end -}}
{{- $partitions := int .Values.provision.partitions -}}
{{- $workers := dict "identity" .Values.identity "delivery" .Values.delivery -}}
{{- range $stage, $values := $workers -}}
{{- if and $values.keda.enabled $values.hpa.enabled }}{{ fail (printf "%s.keda and %s.hpa: enable one" $stage $stage) }}{{ end -}}
{{- $most := int $values.replicas -}}
{{- if $values.keda.enabled }}{{ $most = int $values.keda.maxReplicas }}{{ end -}}
{{- if $values.hpa.enabled }}{{ $most = int $values.hpa.maxReplicas }}{{ end -}}
{{- if gt $most $partitions }}{{ fail (printf "%s: %d workers for %d partitions; a worker without a partition does nothing" $stage $most $partitions) }}{{ end -}}
{{- if and $values.keda.enabled (not $.Values.keda.prometheus.serverAddress) }}{{ fail "keda.prometheus.serverAddress is empty" }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Least number of workers a stage has: its autoscaler's, else its own. */}}
{{- define "is.leastReplicas" -}}
{{- $keda := dig "keda" "enabled" false . -}}
{{- if $keda -}}
{{ .keda.minReplicas }}
{{- else if .hpa.enabled -}}
{{ .hpa.minReplicas }}
{{- else -}}
{{ .replicas }}
{{- end -}}
{{- end -}}
