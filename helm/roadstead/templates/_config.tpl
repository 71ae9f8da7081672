{{/* The configuration of a node as TOML. */}}

{{/* One value. JSON strings are TOML strings, too; numbers of YAML arrive as floats and must not become 1e+06. */}}
{{- define "roadstead.toml.value" -}}
{{- if kindIs "string" . -}}
{{- toJson . -}}
{{- else if kindIs "bool" . -}}
{{- . -}}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "roadstead.toml.value" $item }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ toJson $key }} = {{ include "roadstead.toml.value" (get $ $key) }}{{ end -}} }
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Keys of the configuration that the chart writes, with the value of the chart that sets each of them. */}}
{{- define "roadstead.ownKeys" -}}
node.name: "the name of the pod"
node.cores: cores
node.pin_cores: pinCores
listeners.tcp: listeners.tcp
listeners.websocket: listeners.websocket
listeners.tls: listeners.tls
listeners.websocket_tls: listeners.websocketTls
listeners.quic: listeners.quic
listeners.proxy_protocol: listeners.tcp.proxyProtocol
listeners.proxy_trusted: proxyTrusted
tls.certificates: tls.existingSecret
tls.keys: tls.existingSecret
tls.client_certificates: tls.clientCertificates
tls.client_authorities: tls.clientAuthorities
tls.revocation_lists: tls.clientAuthorities.revocationLists
tls.ticket_secrets: tls.ticketSecrets
access.anonymous: access.anonymous
access.methods: access.methods
access.rules: access.rules
access.password_file: access.passwords
access.authorities: access.authorities
token.keys: access.token.keys
token.jwks: access.token.jwks
token.secrets: access.token.secrets
http.headers_file: access.http
admin.address: admin.port
admin.allow_remote: admin.remote
admin.monitoring_address: admin.monitoringPort
engine.kind: mode
engine.path: persistence
engine.urls: engine.urls
engine.mode: engine.mode
engine.durability: engine.durability
engine.user: engine.user
engine.password_file: engine.password
engine.authorities: engine.authorities
cluster.name: cluster.name
cluster.key_file: cluster.key
cluster.seeds: cluster.seeds
cluster.gossip_address: cluster.gossipPort
cluster.bus_address: cluster.busPort
cluster.advertise_address: "the address of the pod"
cluster.server_reference: cluster.serverReference
cluster.weight: cluster.weight
log.level: log.level
log.format: log.format
{{- end -}}

{{/* Files below a folder, as a list. Takes (list folder names). */}}
{{- define "roadstead.files" -}}
{{- $folder := index . 0 -}}
{{- $files := list -}}
{{- range index . 1 }}{{ $files = append $files (printf "%s/%s" $folder .) }}{{ end -}}
{{- toJson $files -}}
{{- end -}}

{{- define "roadstead.config.listeners" -}}
{{- $section := dict "tcp" list "websocket" list "tls" list "websocket_tls" list "quic" list -}}
{{- $proxied := list -}}
{{- range include "roadstead.listeners" . | fromJsonArray -}}
{{- $address := include "roadstead.address" (list $ .port) -}}
{{- $_ := set $section .key (list $address) -}}
{{- if .proxyProtocol }}{{ $proxied = append $proxied $address }}{{ end -}}
{{- end -}}
{{- if $proxied -}}
{{- $_ := set $section "proxy_protocol" $proxied -}}
{{- $_ := set $section "proxy_trusted" .Values.proxyTrusted -}}
{{- end -}}
{{- toJson $section -}}
{{- end -}}

{{- define "roadstead.config.tls" -}}
{{- $section := dict -}}
{{- if include "roadstead.needsCertificate" . -}}
{{- $certificates := list -}}
{{- $keys := list -}}
{{- range $index, $_ := include "roadstead.certificateSecrets" . | fromJsonArray -}}
{{- $certificates = append $certificates (printf "/etc/roadstead/tls/%d/tls.crt" $index) -}}
{{- $keys = append $keys (printf "/etc/roadstead/tls/%d/tls.key" $index) -}}
{{- end -}}
{{- $_ := set $section "certificates" $certificates -}}
{{- $_ := set $section "keys" $keys -}}
{{- with .Values.tls.clientAuthorities -}}
{{- if .existingSecret -}}
{{- $_ := set $section "client_certificates" $.Values.tls.clientCertificates -}}
{{- $_ := set $section "client_authorities" (include "roadstead.files" (list "/etc/roadstead/client-authorities" .keys) | fromJsonArray) -}}
{{- if .revocationLists -}}
{{- $_ := set $section "revocation_lists" (include "roadstead.files" (list "/etc/roadstead/client-authorities" .revocationLists) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "roadstead.ticketSecret" . -}}
{{- $names := include "roadstead.ticketKeys" . | fromJsonArray -}}
{{- $_ := set $section "ticket_secrets" (include "roadstead.files" (list "/etc/roadstead/tickets" $names) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- toJson $section -}}
{{- end -}}

{{- define "roadstead.config.access" -}}
{{- $access := .Values.access -}}
{{- $section := dict "anonymous" $access.anonymous "methods" $access.methods -}}
{{- if include "roadstead.rulesConfigMap" . -}}
{{- $_ := set $section "rules" (printf "/etc/roadstead/rules/%s" $access.rulesKey) -}}
{{- end -}}
{{- if $access.passwords.existingSecret -}}
{{- $_ := set $section "password_file" (printf "/etc/roadstead/passwords/%s" $access.passwords.key) -}}
{{- end -}}
{{- if $access.authorities.existingSecret -}}
{{- $_ := set $section "authorities" (include "roadstead.files" (list "/etc/roadstead/authorities" $access.authorities.keys) | fromJsonArray) -}}
{{- end -}}
{{- toJson $section -}}
{{- end -}}

{{- define "roadstead.config.token" -}}
{{- $section := dict -}}
{{- $token := .Values.access.token -}}
{{- if $token.existingSecret -}}
{{- range $kind := list "keys" "jwks" "secrets" -}}
{{- with get $token $kind -}}
{{- $_ := set $section $kind (include "roadstead.files" (list "/etc/roadstead/token" .) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $section -}}
{{- end -}}

{{- define "roadstead.config.engine" -}}
{{- $engine := .Values.engine -}}
{{- $section := dict "path" "/var/lib/roadstead" -}}
{{- if include "roadstead.isCluster" . -}}
{{- $_ := set $section "kind" "redis" -}}
{{- $_ := set $section "urls" $engine.urls -}}
{{- $_ := set $section "mode" $engine.mode -}}
{{- with $engine.user }}{{ $_ := set $section "user" . }}{{ end -}}
{{- if $engine.password.existingSecret -}}
{{- $_ := set $section "password_file" (printf "/etc/roadstead/engine/%s" $engine.password.key) -}}
{{- end -}}
{{- if $engine.authorities.existingSecret -}}
{{- $_ := set $section "authorities" (include "roadstead.files" (list "/etc/roadstead/engine-authorities" $engine.authorities.keys) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- with $engine.durability }}{{ $_ := set $section "durability" . }}{{ end -}}
{{- toJson $section -}}
{{- end -}}

{{/* The pod's own address is in the environment: see the workload. */}}
{{- define "roadstead.config.cluster" -}}
{{- $cluster := .Values.cluster -}}
{{- $seed := printf "%s.%s.svc:%d" (include "roadstead.headless" .) .Release.Namespace (int $cluster.gossipPort) -}}
{{- $section := dict
  "name" (default (include "roadstead.fullname" .) $cluster.name)
  "key_file" (printf "/etc/roadstead/cluster/%s" (ternary $cluster.key.key "cluster.key" (not (empty $cluster.key.existingSecret))))
  "seeds" (prepend $cluster.seeds $seed)
  "gossip_address" (include "roadstead.address" (list . $cluster.gossipPort))
  "bus_address" (include "roadstead.address" (list . $cluster.busPort))
-}}
{{- with $cluster.serverReference }}{{ $_ := set $section "server_reference" . }}{{ end -}}
{{- with int $cluster.weight }}{{ $_ := set $section "weight" . }}{{ end -}}
{{- toJson $section -}}
{{- end -}}

{{- define "roadstead.config" -}}
{{- $node := dict "pin_cores" .Values.pinCores -}}
{{- if not (kindIs "invalid" .Values.cores) }}{{ $_ := set $node "cores" (int .Values.cores) }}{{ end -}}
{{- $admin := dict
  "address" (ternary (include "roadstead.address" (list . .Values.admin.port)) (printf "127.0.0.1:%d" (int .Values.admin.port)) .Values.admin.remote)
  "allow_remote" .Values.admin.remote
  "monitoring_address" (include "roadstead.address" (list . .Values.admin.monitoringPort))
-}}
{{- $sections := dict
  "node" $node
  "listeners" (include "roadstead.config.listeners" . | fromJson)
  "tls" (include "roadstead.config.tls" . | fromJson)
  "access" (include "roadstead.config.access" . | fromJson)
  "token" (include "roadstead.config.token" . | fromJson)
  "engine" (include "roadstead.config.engine" . | fromJson)
  "admin" $admin
  "log" (dict "level" .Values.log.level "format" .Values.log.format)
-}}
{{- if .Values.access.http.existingSecret -}}
{{- $_ := set $sections "http" (dict "headers_file" (printf "/etc/roadstead/http/%s" .Values.access.http.key)) -}}
{{- end -}}
{{- if include "roadstead.isCluster" . -}}
{{- $_ := set $sections "cluster" (include "roadstead.config.cluster" . | fromJson) -}}
{{- end -}}
{{- range $name, $keys := .Values.config -}}
{{- $section := default dict (get $sections $name) -}}
{{- range $key, $value := $keys }}{{ $_ := set $section $key $value }}{{ end -}}
{{- $_ := set $sections $name $section -}}
{{- end -}}
# Written by the chart. Where a key is not here, `roadstead config example` has its default.
{{- range $name := keys $sections | sortAlpha }}
{{- $section := get $sections $name }}
{{- if $section }}

[{{ $name }}]
{{- range $key := keys $section | sortAlpha }}
{{ $key }} = {{ include "roadstead.toml.value" (get $section $key) }}
{{- end }}
{{- end }}
{{- end }}
{{ end -}}
