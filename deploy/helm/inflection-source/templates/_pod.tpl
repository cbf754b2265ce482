{{/* Environment of every command on the bus. Where NATS is stands in the file, so that commands run in a pod by hand ask its
     admin listener and not the bus. */}}
{{- define "is.env" -}}
{{- if .Values.nats.allowDegraded }}
- name: INFLECTION_ALLOW_DEGRADED
  value: "true"
{{- end }}
- name: INFLECTION_CONFIG
  value: /etc/inflection-source/config/source.toml
- name: INFLECTION_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: INFLECTION_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- end -}}

{{/* The admin key, for stages and for commands run in their pods: a file, so that it is renewed without a restart. */}}
{{- define "is.adminKeyEnv" -}}
- name: INFLECTION_ADMIN_KEY_FILE
  value: /etc/inflection-source/admin/{{ .Values.admin.existingSecret.entry }}
{{- end -}}

{{- define "is.adminKeyMount" -}}
- name: admin
  mountPath: /etc/inflection-source/admin
  readOnly: true
{{- end -}}

{{- define "is.adminKeyVolume" -}}
- name: admin
  secret:
    secretName: {{ default (printf "%s-admin" (include "is.fullname" .)) .Values.admin.existingSecret.name }}
    defaultMode: 0440
{{- end -}}

{{/* Called with (dict "root" $ "configMap" name-of-ours "secrets" true|false). */}}
{{- define "is.volumeMounts" -}}
- name: config
  mountPath: /etc/inflection-source/config
  readOnly: true
{{- if and .secrets (include "is.secretName" .root) }}
- name: secrets
  mountPath: /etc/inflection-source/secrets
  readOnly: true
{{- end }}
{{- if .root.Values.installation.existingSecret.name }}
- name: installation
  mountPath: /etc/inflection-source/installation
  readOnly: true
{{- end }}
{{- if .root.Values.nats.credsSecret.name }}
- name: nats-creds
  mountPath: /etc/inflection-source/nats-creds
  readOnly: true
{{- end }}
{{- if .root.Values.nats.caSecret.name }}
- name: nats-ca
  mountPath: /etc/inflection-source/nats-ca
  readOnly: true
{{- end }}
{{- end -}}

{{/* Whole folders, never subPath: the kubelet renews only those. */}}
{{- define "is.volumes" -}}
- name: config
  {{- if .root.Values.config.existingSecret }}
  secret:
    secretName: {{ .root.Values.config.existingSecret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ default .configMap .root.Values.config.existingConfigMap }}
  {{- end }}
{{- if and .secrets (include "is.secretName" .root) }}
- name: secrets
  secret:
    secretName: {{ include "is.secretName" .root }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.installation.existingSecret.name }}
- name: installation
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.nats.credsSecret }}
{{- if .name }}
- name: nats-creds
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .root.Values.nats.caSecret }}
{{- if .name }}
- name: nats-ca
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{/* What every pod has. */}}
{{- define "is.podBase" -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ include "is.serviceAccount" . }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Arguments of a stage beyond the common environment. */}}
{{- define "is.stageArgs" -}}
- {{ .stage }}
- --admin-listen=0.0.0.0:9090
{{- if eq .stage "ingest" }}
- --listen=0.0.0.0:8080
{{- end }}
{{- if eq .stage "identity" }}
- --snapshot-every-bytes={{ .values.snapshotEveryBytes | int64 }}
{{- end }}
{{- if eq .stage "delivery" }}
- --linger-ms={{ .values.lingerMs | int64 }}
- --in-flight-max={{ .values.inFlightMax | int64 }}
- --park-after-seconds={{ .values.parkAfterSeconds | int64 }}
{{- end }}
{{- range .values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "is.probe" -}}
httpGet:
  path: {{ .path }}
  port: admin
{{ toYaml .times }}
{{- end -}}

{{/* The pod of a stage. Called with (dict "root" $ "stage" "ingest" "values" .Values.ingest). */}}
{{- define "is.podSpec" -}}
{{- $volumes := dict "root" .root "configMap" (printf "%s-config" (include "is.fullname" .root)) "secrets" true -}}
{{ include "is.podBase" .root }}
terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
containers:
  - name: {{ .stage }}
    image: {{ include "is.image" .root | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      {{- include "is.stageArgs" . | nindent 6 }}
    env:
      {{- include "is.env" .root | trim | nindent 6 }}
      {{- include "is.adminKeyEnv" .root | nindent 6 }}
      {{- with .values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      {{- if eq .stage "ingest" }}
      - name: http
        containerPort: 8080
      {{- end }}
      - name: admin
        containerPort: 9090
    startupProbe:
      {{- include "is.probe" (dict "path" "/startupz" "times" .values.probes.startup) | nindent 6 }}
    readinessProbe:
      {{- include "is.probe" (dict "path" "/readyz" "times" .values.probes.readiness) | nindent 6 }}
    livenessProbe:
      {{- include "is.probe" (dict "path" "/livez" "times" .values.probes.liveness) | nindent 6 }}
    {{- if eq .stage "ingest" }}
    lifecycle:
      preStop:
        sleep:
          seconds: {{ .values.preStopSleepSeconds }}
    {{- end }}
    resources:
      {{- toYaml .values.resources | nindent 6 }}
    securityContext:
      {{- toYaml .root.Values.containerSecurityContext | nindent 6 }}
    volumeMounts:
      {{- include "is.volumeMounts" $volumes | nindent 6 }}
      {{- include "is.adminKeyMount" .root | nindent 6 }}
  {{- with .values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "is.volumes" $volumes | nindent 2 }}
  {{- include "is.adminKeyVolume" .root | nindent 2 }}
{{- if .values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: {{ $.values.topologySpread.maxSkew }}
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $.values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "is.selector" (dict "root" $.root "component" $.stage) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
