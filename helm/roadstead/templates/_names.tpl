{{/* Names and labels. Selectors never change within a major version of the chart: name and instance, nothing else. */}}

{{- define "roadstead.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* 50 characters leave room for the longest suffix, and for the hash that Kubernetes puts behind the name of a workload. */}}
{{- define "roadstead.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "roadstead.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "roadstead.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.headless" -}}{{ include "roadstead.fullname" . }}-headless{{- end -}}

{{- define "roadstead.selectorLabels" -}}
app.kubernetes.io/name: {{ include "roadstead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "roadstead.labels" -}}
{{ include "roadstead.commonLabels" . }}
{{ include "roadstead.selectorLabels" . }}
{{- end -}}

{{/* Labels without those of the selector: for what must not be taken for a node. */}}
{{- define "roadstead.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: roadstead
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "roadstead.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "roadstead.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "roadstead.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.isCluster" -}}
{{- if eq .Values.mode "cluster" }}true{{ end -}}
{{- end -}}

{{- define "roadstead.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 3 1 (eq .Values.mode "cluster") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/* An address of the configuration: host and port, with the brackets of IPv6. Takes (list root port). */}}
{{- define "roadstead.address" -}}
{{- $host := (index . 0).Values.bindAddress -}}
{{- if contains ":" $host -}}
{{- printf "[%s]:%d" $host (int (index . 1)) -}}
{{- else -}}
{{- printf "%s:%d" $host (int (index . 1)) -}}
{{- end -}}
{{- end -}}

{{/* The listeners that are on, as a JSON list: value, key of the configuration, name of the port, protocol, port, servicePort, nodePort. */}}
{{- define "roadstead.listeners" -}}
{{- $all := list
  (list "tcp" "tcp" "mqtt" "TCP")
  (list "tls" "tls" "mqtts" "TCP")
  (list "websocket" "websocket" "ws" "TCP")
  (list "websocketTls" "websocket_tls" "wss" "TCP")
  (list "quic" "quic" "quic" "UDP")
-}}
{{- $on := list -}}
{{- range $all -}}
{{- $listener := index $.Values.listeners (index . 0) -}}
{{- if $listener.enabled -}}
{{- $on = append $on (dict
  "value" (index . 0) "key" (index . 1) "name" (index . 2) "protocol" (index . 3)
  "port" (int $listener.port) "servicePort" (int $listener.servicePort) "nodePort" (int $listener.nodePort)
  "proxyProtocol" (default false $listener.proxyProtocol)) -}}
{{- end -}}
{{- end -}}
{{- toJson $on -}}
{{- end -}}

{{- define "roadstead.needsCertificate" -}}
{{- if or .Values.listeners.tls.enabled .Values.listeners.websocketTls.enabled .Values.listeners.quic.enabled }}true{{ end -}}
{{- end -}}

{{/* Names of the Secrets with certificates, as a JSON list, the first one first. */}}
{{- define "roadstead.certificateSecrets" -}}
{{- $names := list -}}
{{- if .Values.tls.certManager.enabled -}}
{{- $names = append $names (printf "%s-tls" (include "roadstead.fullname" .)) -}}
{{- else if .Values.tls.existingSecret -}}
{{- $names = append $names .Values.tls.existingSecret -}}
{{- end -}}
{{- toJson (concat $names .Values.tls.additionalSecrets) -}}
{{- end -}}

{{- define "roadstead.generatedSecret" -}}{{ include "roadstead.fullname" . }}-generated{{- end -}}

{{- define "roadstead.clusterKeySecret" -}}
{{- .Values.cluster.key.existingSecret | default (include "roadstead.generatedSecret" .) -}}
{{- end -}}

{{/* Empty when tickets are sealed with what each node makes for itself. */}}
{{- define "roadstead.ticketSecret" -}}
{{- if .Values.tls.ticketSecrets.existingSecret -}}
{{- .Values.tls.ticketSecrets.existingSecret -}}
{{- else if .Values.tls.ticketSecrets.generate -}}
{{- include "roadstead.generatedSecret" . -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.ticketKeys" -}}
{{- if .Values.tls.ticketSecrets.existingSecret -}}
{{- toJson .Values.tls.ticketSecrets.keys -}}
{{- else -}}
{{- toJson (list "ticket.secret") -}}
{{- end -}}
{{- end -}}

{{/* Name of the ConfigMap with the rules, or nothing. */}}
{{- define "roadstead.rulesConfigMap" -}}
{{- if .Values.access.rulesConfigMap -}}
{{- .Values.access.rulesConfigMap -}}
{{- else if .Values.access.rules -}}
{{- include "roadstead.fullname" . }}-rules
{{- end -}}
{{- end -}}
