{{/* The pod of a node, the same in both workloads but for its store and how it stops. */}}

{{- define "roadstead.podMetadata" -}}
# No version of the chart or the application: a new chart that changes nothing for the nodes must not replace them.
labels:
  {{- include "roadstead.selectorLabels" . | nindent 2 }}
  {{- with .Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # A node reads its configuration at its start alone. Rules, certificates and passwords, which it reads again, are not part of this.
  checksum/config: {{ include "roadstead.config" . | sha256sum }}
  kubectl.kubernetes.io/default-container: roadstead
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "roadstead.podSpec" -}}
{{- $cluster := include "roadstead.isCluster" . -}}
{{- $resources := default dict .Values.resources -}}
serviceAccountName: {{ include "roadstead.serviceAccount" . }}
automountServiceAccountToken: false
# Variables of Services would be many, and some look like those of the configuration.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ if $cluster }}{{ add (ternary (int .Values.drain.seconds) 0 .Values.drain.enabled) 30 }}{{ else }}{{ .Values.terminationGracePeriodSeconds }}{{ end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.podSecurity.runAsUser }}
  runAsGroup: {{ .Values.podSecurity.runAsGroup }}
  fsGroup: {{ .Values.podSecurity.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: {{ .Values.seccomp.type }}
    {{- if eq .Values.seccomp.type "Localhost" }}
    localhostProfile: {{ .Values.seccomp.localhostProfile }}
    {{- end }}
  {{- with .Values.podSecurity.sysctls }}
  sysctls:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and $cluster .Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "roadstead.selectorLabels" $ | nindent 8 }}
    # Each version is spread by itself, so that the nodes that go do not push the new ones aside.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- with .Values.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: roadstead
    image: {{ include "roadstead.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command:
      {{- toYaml .Values.image.command | nindent 6 }}
    args:
      - run
      - --config=/etc/roadstead/config/roadstead.toml
      {{- with .Values.extraArgs }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    env:
      - name: ROADSTEAD_NODE_NAME
        valueFrom:
          fieldRef:
            fieldPath: metadata.name
      {{- if kindIs "invalid" .Values.cores }}
      - name: ROADSTEAD_NODE_CORES
        {{- if (default dict $resources.limits).cpu }}
        valueFrom:
          resourceFieldRef:
            containerName: roadstead
            resource: limits.cpu
            divisor: "1"
        {{- else if (default dict $resources.requests).cpu }}
        valueFrom:
          resourceFieldRef:
            containerName: roadstead
            resource: requests.cpu
            divisor: "1"
        {{- else }}
        value: "1"
        {{- end }}
      {{- end }}
      {{- if $cluster }}
      - name: ROADSTEAD_CLUSTER_ADVERTISE_ADDRESS
        valueFrom:
          fieldRef:
            fieldPath: status.podIP
      {{- end }}
      # Where `roadstead ctl` in this container finds the node.
      - name: ROADSTEAD_ADDRESS
        value: 127.0.0.1:{{ .Values.admin.port }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      {{- range include "roadstead.listeners" . | fromJsonArray }}
      - name: {{ .name }}
        containerPort: {{ .port }}
        protocol: {{ .protocol }}
      {{- end }}
      - name: monitoring
        containerPort: {{ .Values.admin.monitoringPort }}
        protocol: TCP
      {{- if .Values.admin.remote }}
      - name: admin
        containerPort: {{ .Values.admin.port }}
        protocol: TCP
      {{- end }}
      {{- if $cluster }}
      - name: gossip
        containerPort: {{ .Values.cluster.gossipPort }}
        protocol: UDP
      - name: bus
        containerPort: {{ .Values.cluster.busPort }}
        protocol: TCP
      {{- end }}
    {{- if and $cluster .Values.drain.enabled }}
    lifecycle:
      preStop:
        # The node stays ready meanwhile: its connections are to be moved, not cut. Only when this has ended does it get SIGTERM.
        exec:
          command:
            {{- toYaml .Values.image.command | nindent 12 }}
            - ctl
            - cluster
            - drain
            - --wait
    {{- end }}
    startupProbe:
      httpGet:
        path: /readyz
        port: monitoring
      periodSeconds: {{ .Values.probes.startup.periodSeconds }}
      timeoutSeconds: 3
      failureThreshold: {{ .Values.probes.startup.failureThreshold }}
    readinessProbe:
      httpGet:
        path: /readyz
        port: monitoring
      periodSeconds: {{ .Values.probes.readiness.periodSeconds }}
      timeoutSeconds: 3
      failureThreshold: {{ .Values.probes.readiness.failureThreshold }}
    livenessProbe:
      httpGet:
        path: /healthz
        port: monitoring
      periodSeconds: {{ .Values.probes.liveness.periodSeconds }}
      # A core has five seconds to answer.
      timeoutSeconds: 7
      failureThreshold: {{ .Values.probes.liveness.failureThreshold }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      allowPrivilegeEscalation: false
      privileged: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      {{- range include "roadstead.folders" . | fromJsonArray }}
      - name: {{ .name }}
        mountPath: {{ .path }}
        readOnly: true
      {{- end }}
      - name: data
        mountPath: /var/lib/roadstead
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- range include "roadstead.folders" . | fromJsonArray }}
  - name: {{ .name }}
    {{- if .configMap }}
    configMap:
      name: {{ .configMap }}
    {{- else }}
    secret:
      secretName: {{ .secret }}
      defaultMode: 0440
    {{- end }}
  {{- end }}
  {{- if $cluster }}
  # What a node of a cluster keeps for itself goes with its pod.
  - name: data
    emptyDir: {}
  {{- else if not .Values.persistence.enabled }}
  - name: data
    emptyDir: {}
  {{- else if .Values.persistence.existingClaim }}
  - name: data
    persistentVolumeClaim:
      claimName: {{ .Values.persistence.existingClaim }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Folders below /etc/roadstead, as a JSON list: name, path, and the ConfigMap or Secret in it. */}}
{{- define "roadstead.folders" -}}
{{- $folders := list (dict "name" "config" "path" "/etc/roadstead/config" "configMap" (include "roadstead.fullname" .)) -}}
{{- if include "roadstead.needsCertificate" . -}}
{{- range $index, $secret := include "roadstead.certificateSecrets" . | fromJsonArray -}}
{{- $folders = append $folders (dict "name" (printf "tls-%d" $index) "path" (printf "/etc/roadstead/tls/%d" $index) "secret" $secret) -}}
{{- end -}}
{{- with .Values.tls.clientAuthorities.existingSecret -}}
{{- $folders = append $folders (dict "name" "client-authorities" "path" "/etc/roadstead/client-authorities" "secret" .) -}}
{{- end -}}
{{- with include "roadstead.ticketSecret" . -}}
{{- $folders = append $folders (dict "name" "tickets" "path" "/etc/roadstead/tickets" "secret" .) -}}
{{- end -}}
{{- end -}}
{{- with include "roadstead.rulesConfigMap" . -}}
{{- $folders = append $folders (dict "name" "rules" "path" "/etc/roadstead/rules" "configMap" .) -}}
{{- end -}}
{{- range $name := list "passwords" "token" "http" "authorities" -}}
{{- with (get $.Values.access $name).existingSecret -}}
{{- $folders = append $folders (dict "name" $name "path" (printf "/etc/roadstead/%s" $name) "secret" .) -}}
{{- end -}}
{{- end -}}
{{- if include "roadstead.isCluster" . -}}
{{- $folders = append $folders (dict "name" "cluster" "path" "/etc/roadstead/cluster" "secret" (include "roadstead.clusterKeySecret" .)) -}}
{{- with .Values.engine.password.existingSecret -}}
{{- $folders = append $folders (dict "name" "engine" "path" "/etc/roadstead/engine" "secret" .) -}}
{{- end -}}
{{- with .Values.engine.authorities.existingSecret -}}
{{- $folders = append $folders (dict "name" "engine-authorities" "path" "/etc/roadstead/engine-authorities" "secret" .) -}}
{{- end -}}
{{- end -}}
{{- toJson $folders -}}
{{- end -}}
