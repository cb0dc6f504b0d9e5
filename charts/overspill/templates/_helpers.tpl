{{- define "overspill.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "overspill.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "overspill.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "overspill.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of (root, component). */}}
{{- define "overspill.selector" -}}
app.kubernetes.io/name: {{ include "overspill.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "overspill.labels" -}}
{{ include "overspill.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{- define "overspill.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "overspill.authSecret" -}}
{{ .Values.auth.existingSecret | default (include "overspill.fullname" .) }}
{{- end }}

{{/* PERSISTENT: where evicted records go. */}}
{{- define "overspill.tier" -}}
{{- if .Values.mysql.enabled -}}
{{ include "overspill.fullname" . }}-mysql:3306
{{- else if .Values.externalDatabase.host -}}
{{ .Values.externalDatabase.host }}:{{ .Values.externalDatabase.port }}
{{- else -}}
none
{{- end }}
{{- end }}

{{- define "overspill.mysqlSecret" -}}
{{- if .Values.mysql.enabled -}}
{{ .Values.mysql.auth.existingSecret | default (printf "%s-mysql" (include "overspill.fullname" .)) }}
{{- else -}}
{{ .Values.externalDatabase.existingSecret | default (printf "%s-mysql" (include "overspill.fullname" .)) }}
{{- end }}
{{- end }}

{{- define "overspill.mysqlPasswordKey" -}}
{{- if or .Values.mysql.enabled (not .Values.externalDatabase.existingSecret) -}}
mysql-password
{{- else -}}
{{ .Values.externalDatabase.existingSecretPasswordKey }}
{{- end }}
{{- end }}

{{/* Of (root, secret, key, value): the value; or what the cluster has; or a random one. */}}
{{- define "overspill.password" -}}
{{- $root := index . 0 }}
{{- $found := (lookup "v1" "Secret" $root.Release.Namespace (index . 1)).data | default dict }}
{{- if index . 3 }}
{{- index . 3 | b64enc }}
{{- else if hasKey $found (index . 2) }}
{{- get $found (index . 2) }}
{{- else }}
{{- randAlphaNum 32 | b64enc }}
{{- end }}
{{- end }}

{{/* Of (root, path): a probe that needs neither password nor certificate. */}}
{{- define "overspill.probe" -}}
{{- $tls := (index . 0).Values.tls }}
{{- if and $tls.enabled (eq $tls.clientCertificates "required") (eq $tls.mode "required") }}
tcpSocket:
  port: overspill
{{- else }}
httpGet:
  path: {{ index . 1 }}
  port: overspill
  {{- if and $tls.enabled (eq $tls.mode "required") }}
  scheme: HTTPS
  {{- end }}
{{- end }}
{{- end }}

{{- define "overspill.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "overspill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Of (root, component): spread, and where the pod may go. */}}
{{- define "overspill.placement" -}}
{{- $values := get (index . 0).Values (index . 1) }}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "overspill.selector" . | nindent 8 }}
{{- end }}

{{/* Of (root, component): who it is to others. */}}
{{- define "overspill.access" -}}
{{- $values := (index . 0).Values }}
{{- if $values.auth.enabled }}
- name: KV_PASSWORD_FILE
  value: /etc/overspill/auth/password
{{- else }}
- name: KV_INSECURE_NO_AUTH
  value: "true"
{{- end }}
{{- if $values.tls.enabled }}
- name: KV_TLS_CERT
  value: /etc/overspill/tls/tls.crt
- name: KV_TLS_KEY
  value: /etc/overspill/tls/tls.key
- name: KV_TLS_CA
  value: /etc/overspill/tls/ca.crt
- name: KV_TLS_CLIENT_CERTS
  value: {{ $values.tls.clientCertificates }}
- name: KV_TLS
  value: {{ $values.tls.mode }}
{{- end }}
{{- with (get $values (index . 1)).extraEnvVars }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "overspill.accessMounts" -}}
{{- $values := (index . 0).Values }}
{{- if $values.auth.enabled }}
- name: auth
  mountPath: /etc/overspill/auth
  readOnly: true
{{- end }}
{{- if $values.tls.enabled }}
- name: tls
  mountPath: /etc/overspill/tls
  readOnly: true
{{- end }}
{{- with (get $values (index . 1)).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "overspill.accessVolumes" -}}
{{- $root := index . 0 }}
{{- if $root.Values.auth.enabled }}
- name: auth
  secret:
    secretName: {{ include "overspill.authSecret" $root }}
    defaultMode: 0440
    items:
      - key: {{ ternary $root.Values.auth.existingSecretPasswordKey "password" (ne $root.Values.auth.existingSecret "") }}
        path: password
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ required "tls.enabled needs tls.existingSecret" $root.Values.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with (get $root.Values (index . 1)).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of (persistence): what a claim asks for. */}}
{{- define "overspill.claim" -}}
accessModes:
  {{- toYaml .accessModes | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}

{{- define "overspill.config.secondary" -}}
KV_MAX_MEMORY: {{ .Values.maxMemory | quote }}
KV_JOURNAL_MAX: {{ .Values.journalMax | quote }}
KV_WRITE: {{ .Values.write }}
KV_FSYNC: {{ .Values.fsync }}
KV_DRAIN_TIMEOUT: {{ .Values.drainTimeoutSeconds }}s
KV_STRICT: {{ .Values.strict | quote }}
{{- if .Values.mysql.enabled }}
KV_MYSQL_USER: {{ .Values.mysql.auth.username }}
KV_MYSQL_DATABASE: {{ .Values.mysql.auth.database }}
{{- else if .Values.externalDatabase.host }}
KV_MYSQL_USER: {{ .Values.externalDatabase.user }}
KV_MYSQL_DATABASE: {{ .Values.externalDatabase.database }}
{{- with .Values.externalDatabase.tls }}
KV_TLS_MYSQL: {{ . | quote }}
{{- end }}
{{- end }}
KV_LOG: {{ .Values.log.filter | quote }}
KV_LOG_FORMAT: {{ .Values.log.format }}
{{- end }}

{{- define "overspill.config.primary" -}}
KV_THREADS: {{ .Values.primary.threads | quote }}
KV_LOG: {{ .Values.log.filter | quote }}
KV_LOG_FORMAT: {{ .Values.log.format }}
{{- end }}

{{- define "overspill.config.mysql" -}}
overspill.cnf: |
  [mysqld]
  # What the server has acknowledged survives a power cut.
  innodb_flush_log_at_trx_commit = 1
  innodb_doublewrite = ON
  sync_binlog = 1
  binlog_expire_logs_seconds = 259200
  skip_name_resolve = ON
  {{- .Values.mysql.configuration | trim | nindent 2 }}
{{- end }}
