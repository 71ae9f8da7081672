{{/* What the schema cannot say: values that are good alone and not together. All of it is told at once. */}}
{{- define "roadstead.validate" -}}
{{- $problems := concat
  (include "roadstead.problems.shape" . | fromJsonArray)
  (include "roadstead.problems.access" . | fromJsonArray)
  (include "roadstead.problems.tls" . | fromJsonArray)
  (include "roadstead.problems.ports" . | fromJsonArray)
  (include "roadstead.problems.config" . | fromJsonArray)
-}}
{{- if $problems -}}
{{- fail (printf "\n\n  - %s\n" (join "\n  - " $problems)) -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.problems.shape" -}}
{{- $problems := list -}}
{{- $cluster := eq .Values.mode "cluster" -}}
{{- if not .Values.image.repository -}}
{{- $problems = append $problems "image.repository is empty: set it to where your image of Roadstead is" -}}
{{- end -}}
{{- if not $cluster -}}
{{- if gt (int (include "roadstead.replicas" .)) 1 -}}
{{- $problems = append $problems (printf "replicas is %d and mode is single: the store of a single node is its own, so two would be two brokers; set mode to cluster, with engine.urls, or replicas to 1" (int .Values.replicas)) -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- $problems = append $problems "autoscaling.enabled needs mode cluster: a single node cannot become two" -}}
{{- end -}}
{{- if .Values.engine.urls -}}
{{- $problems = append $problems "engine.urls is set and mode is single: a single node keeps its store on its volume; set mode to cluster" -}}
{{- end -}}
{{- if has .Values.engine.durability (list "memory" "aof" "replica" "replica-aof") -}}
{{- $problems = append $problems (printf "engine.durability is %q and mode is single: take auto, sync or relaxed" .Values.engine.durability) -}}
{{- end -}}
{{- else -}}
{{- if not .Values.engine.urls -}}
{{- $problems = append $problems "mode is cluster and engine.urls is empty: name your Valkey or Redis, such as redis://valkey.data.svc:6379" -}}
{{- end -}}
{{- if has .Values.engine.durability (list "sync" "relaxed") -}}
{{- $problems = append $problems (printf "engine.durability is %q and mode is cluster: take auto, memory, aof, replica or replica-aof" .Values.engine.durability) -}}
{{- end -}}
{{- if and .Values.engine.user (not .Values.engine.password.existingSecret) -}}
{{- $problems = append $problems "engine.user needs engine.password.existingSecret: a user logs in with a password" -}}
{{- end -}}
{{- if and .Values.engine.authorities.existingSecret .Values.engine.urls (not (hasPrefix "rediss://" (first .Values.engine.urls))) -}}
{{- $problems = append $problems "engine.authorities verifies servers at rediss://, and engine.urls names none: write them so, or leave engine.authorities out" -}}
{{- end -}}
{{- $key := .Values.cluster.key -}}
{{- if and (not $key.existingSecret) (not $key.generate) -}}
{{- $problems = append $problems (printf "mode is cluster and there is no key: `openssl rand -base64 32 | kubectl --namespace %s create secret generic roadstead-cluster --from-file=cluster.key=/dev/stdin`, then set cluster.key.existingSecret to roadstead-cluster; or set cluster.key.generate" .Release.Namespace) -}}
{{- end -}}
{{- if and $key.existingSecret $key.generate -}}
{{- $problems = append $problems "cluster.key has both existingSecret and generate: keep one of them" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- $problems = append $problems "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq (toString .Values.rollout.maxSurge) "0") (eq (toString .Values.rollout.maxUnavailable) "0") -}}
{{- $problems = append $problems "rollout.maxSurge and rollout.maxUnavailable are both 0: no node could ever be replaced" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled -}}
{{- $problems = append $problems "monitoring.podMonitor and monitoring.serviceMonitor are both enabled: each node would be scraped twice; keep one" -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "roadstead.problems.access" -}}
{{- $problems := list -}}
{{- $access := .Values.access -}}
{{- $open := eq $access.anonymous "everywhere-without-any-authentication" -}}
{{- if and (not $access.methods) (not $open) -}}
{{- $problems = append $problems "nobody could connect: name in access.methods how clients prove who they are, or set access.anonymous to everywhere-without-any-authentication" -}}
{{- end -}}
{{- $bounded := and (eq .Values.service.type "LoadBalancer") .Values.service.loadBalancerSourceRanges -}}
{{- if and $open (ne .Values.service.type "ClusterIP") (not $bounded) -}}
{{- $problems = append $problems (printf "whoever comes is let in, and service.type %s may be reached from the internet: set service.type to ClusterIP, name networks in service.loadBalancerSourceRanges of a LoadBalancer, or set access.anonymous to nowhere" .Values.service.type) -}}
{{- end -}}
{{- if and (has "password" $access.methods) (not $access.passwords.existingSecret) -}}
{{- $problems = append $problems "access.methods has password and access.passwords.existingSecret is empty: `roadstead passwd users alice`, then `kubectl create secret generic roadstead-users --from-file=users`" -}}
{{- end -}}
{{- if and (has "token" $access.methods) (not $access.token.existingSecret) (not (dig "token" "jwks_url" "" .Values.config)) -}}
{{- $problems = append $problems "access.methods has token and there are no keys: set access.token.existingSecret, or config.token.jwks_url" -}}
{{- end -}}
{{- if and $access.token.existingSecret (not $access.token.keys) (not $access.token.jwks) (not $access.token.secrets) -}}
{{- $problems = append $problems "access.token.existingSecret is set and none of its keys is named: see access.token.keys, access.token.jwks and access.token.secrets" -}}
{{- end -}}
{{- if and (has "http" $access.methods) (not (dig "http" "url" "" .Values.config)) -}}
{{- $problems = append $problems "access.methods has http and there is no service: set config.http.url" -}}
{{- end -}}
{{- if and (has "certificate" $access.methods) (eq .Values.tls.clientCertificates "none") -}}
{{- $problems = append $problems "access.methods has certificate and clients are asked for none: set tls.clientCertificates to optional or required" -}}
{{- end -}}
{{- if and $access.rules $access.rulesConfigMap -}}
{{- $problems = append $problems "access.rules and access.rulesConfigMap are both set: keep one of them" -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "roadstead.problems.tls" -}}
{{- $problems := list -}}
{{- $tls := .Values.tls -}}
{{- $manager := $tls.certManager -}}
{{- if and (include "roadstead.needsCertificate" .) (not $tls.existingSecret) (not $manager.enabled) -}}
{{- $problems = append $problems "a TLS or QUIC listener is on and there is no certificate: set tls.existingSecret to a Secret of type kubernetes.io/tls, or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $tls.existingSecret $manager.enabled -}}
{{- $problems = append $problems "tls.existingSecret and tls.certManager.enabled are both set: keep one of them" -}}
{{- end -}}
{{- if and $manager.enabled (or (not $manager.issuerRef.name) (not $manager.dnsNames)) -}}
{{- $problems = append $problems "tls.certManager needs issuerRef.name and dnsNames" -}}
{{- end -}}
{{- if and (ne $tls.clientCertificates "none") (not $tls.clientAuthorities.existingSecret) -}}
{{- $problems = append $problems (printf "tls.clientCertificates is %s and nobody could be verified: set tls.clientAuthorities.existingSecret" $tls.clientCertificates) -}}
{{- end -}}
{{- if and $tls.ticketSecrets.existingSecret $tls.ticketSecrets.generate -}}
{{- $problems = append $problems "tls.ticketSecrets has both existingSecret and generate: keep one of them" -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "roadstead.problems.ports" -}}
{{- $problems := list -}}
{{- $listeners := include "roadstead.listeners" . | fromJsonArray -}}
{{- if not $listeners -}}
{{- $problems = append $problems "no listener is on: set listeners.tls.enabled, or another" -}}
{{- end -}}
{{- $seen := dict "TCP" (dict) "UDP" (dict) -}}
{{- $services := dict "TCP" (dict) "UDP" (dict) -}}
{{- $own := list
  (dict "value" "admin.port" "protocol" "TCP" "port" (int .Values.admin.port))
  (dict "value" "admin.monitoringPort" "protocol" "TCP" "port" (int .Values.admin.monitoringPort)) -}}
{{- if include "roadstead.isCluster" . -}}
{{- $own = concat $own (list
  (dict "value" "cluster.gossipPort" "protocol" "UDP" "port" (int .Values.cluster.gossipPort))
  (dict "value" "cluster.busPort" "protocol" "TCP" "port" (int .Values.cluster.busPort))) -}}
{{- end -}}
{{- range $listeners -}}
{{- $own = append $own (dict "value" (printf "listeners.%s.port" .value) "protocol" .protocol "port" (int .port)) -}}
{{- $used := get $services .protocol -}}
{{- $port := toString .servicePort -}}
{{- if hasKey $used $port -}}
{{- $problems = append $problems (printf "listeners.%s.servicePort and listeners.%s.servicePort are both %s: give each its own" (get $used $port) .value $port) -}}
{{- end -}}
{{- $_ := set $used $port .value -}}
{{- if and .proxyProtocol (not $.Values.proxyTrusted) -}}
{{- $problems = append $problems (printf "listeners.%s.proxyProtocol is on and nobody is trusted: name your proxies in proxyTrusted" .value) -}}
{{- end -}}
{{- end -}}
{{- range $own -}}
{{- $used := get $seen .protocol -}}
{{- $port := toString .port -}}
{{- if hasKey $used $port -}}
{{- $problems = append $problems (printf "%s and %s are both %s: give each its own" (get $used $port) .value $port) -}}
{{- end -}}
{{- $_ := set $used $port .value -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* A key that the chart writes cannot be set a second way. */}}
{{- define "roadstead.problems.config" -}}
{{- $problems := list -}}
{{- $own := include "roadstead.ownKeys" . | fromYaml -}}
{{- range $section, $keys := .Values.config -}}
{{- range $key, $_ := $keys -}}
{{- $path := printf "%s.%s" $section $key -}}
{{- if not (regexMatch "^[a-z][a-z0-9_]*$" $key) -}}
{{- $problems = append $problems (printf "config.%s is no key of the configuration: they are written like config.mqtt.keep_alive_max" $path) -}}
{{- else if and (hasKey $own $path) (hasPrefix "the " (get $own $path)) -}}
{{- $problems = append $problems (printf "config.%s is always %s" $path (get $own $path)) -}}
{{- else if hasKey $own $path -}}
{{- $problems = append $problems (printf "config.%s is written by the chart: use %s" $path (get $own $path)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
