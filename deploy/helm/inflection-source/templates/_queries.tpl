{{/* Every worker of delivery tells the books of the whole install, so the largest is the truth. */}}
{{- define "is.identityBacklog" -}}
max(inflection_ledger_events_pending{namespace="{{ .Release.Namespace }}"})
{{- end -}}

{{/* Calls that more workers could send sooner. Left out are connections of which a tenth of the requests fails or is
     throttled, and those that are sent as much as they may be. Calls that are parked are not pending. When the books are
     there and nothing is left, it is 0; when they are not there, nothing, and KEDA's fallback holds. */}}
{{- define "is.deliveryBacklog" -}}
{{- $namespace := printf "namespace=%q" .Release.Namespace -}}
{{- $ceiling := int64 .Values.delivery.keda.connectionCallsPerSecond -}}
sum(
  max by (workspace, connection) (inflection_ledger_calls{ {{- $namespace }},fate="pending"})
  unless on (workspace, connection)
    sum by (workspace, connection) (rate(inflection_delivery_requests_total{ {{- $namespace }},outcome!~"accepted|refused"}[2m]))
    > 0.1 * sum by (workspace, connection) (rate(inflection_delivery_requests_total{ {{- $namespace }}}[2m]))
{{- if gt $ceiling 0 }}
  unless on (workspace, connection)
    sum by (workspace, connection) (rate(inflection_delivery_calls_accepted_total{ {{- $namespace }}}[2m]))
    > 0.9 * {{ $ceiling }}
{{- end }}
)
or 0 * max(inflection_ledger_events_pending{ {{- $namespace }}})
{{- end -}}
