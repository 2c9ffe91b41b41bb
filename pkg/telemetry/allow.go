package telemetry

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// set is a closed set of names.
type set map[string]bool

func of(names ...string) set {
	s := make(set, len(names))
	for _, n := range names {
		s[n] = true
	}
	return s
}

func union(sets ...set) set {
	all := make(set)
	for _, s := range sets {
		for n := range s {
			all[n] = true
		}
	}
	return all
}

// services are the values of service.name.
var services = of("hub", "kpstore", "fanout", "provider", "canary")

// kinds are the kinds of a problem.
var kinds = of("internal", "invalid", "denied", "not_found", "stale", "limited", "unavailable")

// templates are the patterns of subjects, as the table of package bus has them, and the subjects of calls. Partitions and tokens are not in them: a partition is some bits of a group's token.
var templates = of("group.*.*.c", "group.*.*.m", "out.*", "body.*", "queue.*.*", "queuemeta.*", "kp.*.*.*", "kpalias.*", "kpclaim.*", "kpserved.*",
	"inbox.*", "inboxreq.*", "dir.u.*", "dir.c.*", "link.*", "revoked.*", "peer.*", "spent.*.*", "issuer.*.*", "dead.*", "audit.*", "setting.*",
	"rpc.hub", "rpc.kpstore", "rpc.inbox", "rpc.redrive", "rpc.issuerkeys")

// procedures are the calls of the services' protobuf schema, but for streams, which last as long as a client is there.
var procedures = func() set {
	all := make(set)
	for service, methods := range map[string]string{
		"AccountService": "Register PublishRecord FetchInbox AckInbox IssueTokens OfferLink ListLinks ApproveLink GetLink PutLinkPackage ListClients RemoveClient " +
			"RenewCertificate DeleteAccount",
		"RelayService":      "Relay GetKeyDocument GetRevocations ExchangeTokens",
		"QueueService":      "Create Read Ack Delete Confirm Refuse",
		"FederationService": "Notify Relay",
		"HubService":        "CreateGroup Commit Propose SendMessage GetGroup GetTree ReadLog RegisterInvitation RevokeInvitation",
		"InboxService":      "GetRecord Deposit GetPeerDocument",
		"KeyPackageService": "RegisterAlias RevokeAlias ListSets Upload Withdraw DeleteIndex Claim",
	} {
		for _, m := range strings.Fields(methods) {
			all["mimimi.v1."+service+"/"+m] = true
		}
	}
	return all
}()

// Procedure returns the name of the span that a request's path gets, and whether it gets one. A path is whatever a client sends: any other is no name.
func Procedure(path string) (name string, ok bool) {
	name = strings.TrimPrefix(path, "/")
	return name, procedures[name]
}

// spanNames are the names that a span may have.
var spanNames = func() set {
	all := union(procedures)
	for t := range templates {
		for _, operation := range []string{"send ", "process ", "call ", "serve "} {
			all[operation+t] = true
		}
	}
	return all
}()

// spanKeys is the allow-list of a span's attributes, each with all values that it may have.
var spanKeys = map[attribute.Key]set{
	"mimimi.zone":                    of("account", "relay", "group", "queue", "keypackage"),
	"messaging.system":               of("nats"),
	"messaging.operation.type":       of("send", "process"),
	"messaging.operation.name":       of("send", "process", "call", "serve"),
	"messaging.destination.template": templates,
	"rpc.system.name":                of("connectrpc"),
	"rpc.method":                     procedures,
	"error.type":                     kinds,
}

// metricKeys is the allow-list of a measurement's attributes, each with all values that it may have: enumerations of the services' metrics.go.
var metricKeys = map[attribute.Key]set{
	"operation": of("create", "commit", "propose", "send", "get_group", "get_tree", "read_log", "register_invitation", "revoke_invitation", // the hub's
		"register_alias", "revoke_alias", "list_sets", "upload", "withdraw", "delete_index", "claim", // the KeyPackage store's
		"connection_request", "create_group", "queue"), // what tokens are for, beside claim and upload
	"kind": union(kinds, of("ok"), of("commit", "proposal", "message", "checkpoint", "invitation", "unknown")),
	"outcome": of("ok", "failed", // of exports and requests
		"refused",                          // of requests: the caller's fault, or too many
		"delivered", "rejected", "dropped", // of entries of the log
		"sent", "told_before", // of notices
		"spent", "again", "spent_before", "not_good", "missing", "unknown"), // of tokens
	"cause":  union(kinds, of("panic", "damaged_log", "nothing_left", "alias_limit", "issuer_limit")),
	"set":    of("one_time", "last_resort", "nothing"),
	"stream": of("group", "queue", "kp", "outbox", "body", "kpindex", "inbox", "directory", "peers", "links", "revoked", "spent", "issuer", "queuemeta", "dead", "audit", "settings"),
	"method": procedures,
}

// spanAttribute says whether an attribute may leave with a span.
func spanAttribute(kv attribute.KeyValue) bool {
	return kv.Value.Type() == attribute.STRING && spanKeys[kv.Key][kv.Value.AsString()]
}

// metricAttribute says whether an attribute may leave with a measurement.
func metricAttribute(kv attribute.KeyValue) bool {
	return kv.Value.Type() == attribute.STRING && metricKeys[kv.Key][kv.Value.AsString()]
}
