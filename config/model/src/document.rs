//! Documents: what is written. One module for each kind; the types carry names, defaults, limits and explanations, and the
//! schema, the structure check and the compiler all take them from here.
//!
//! A tree becomes a document in three steps: `apiVersion` and `kind` say which type it is; `structure` compares it with
//! the schema of that type and reports everything that does not fit; what fits is deserialised.

pub mod backend;
pub mod backend_policy;
pub mod formats;
pub mod http_route;
pub mod latency_slo;
pub mod proxy_config;
pub mod schema;
mod structure;
pub(crate) mod timestamp;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::finding::{Code, Finding, spelling};
use crate::names::ObjectName;
use crate::source::{FieldPath, Origin};
use crate::yaml::Tree;

/// A kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`http_route`].
    HttpRoute,
    /// [`backend`].
    Backend,
    /// [`backend_policy`].
    BackendPolicy,
    /// [`latency_slo`].
    LatencySlo,
    /// [`proxy_config`].
    ProxyConfig,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::HttpRoute, Self::Backend, Self::BackendPolicy, Self::LatencySlo, Self::ProxyConfig];

    /// As `kind` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::Backend => "Backend",
            Self::BackendPolicy => "BackendPolicy",
            Self::LatencySlo => "LatencySLO",
            Self::ProxyConfig => "ProxyConfig",
        }
    }

    /// The one `apiVersion` that is read.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::HttpRoute => "gateway.networking.k8s.io/v1",
            _ => "penstock.dev/v1alpha1",
        }
    }
}

/// A document as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written<S> {
    /// Group and version of the kind.
    pub api_version: String,
    /// What is described.
    pub kind: String,
    /// Which one.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// Written by controllers; never read.
    #[serde(default)]
    pub status: Ignored,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Its name, unique among objects of its kind and namespace.
    pub name: formats::Name,
    /// Its namespace. Default: `default`.
    #[serde(default = "default_namespace")]
    pub namespace: formats::Label,
    /// Written by the API server. Among routes that match equally well, the oldest wins.
    #[schemars(extend("x-null" = true))]
    pub creation_timestamp: Option<formats::Timestamp>,
    /// For people and tools; not read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For people and tools. `penstock.dev/analyze-suppress: penstock0332,…` silences warnings about this object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Written by the API server; never read.
    #[serde(default)]
    pub uid: Ignored,
    /// Written by the API server; never read.
    #[serde(default)]
    pub resource_version: Ignored,
    /// Written by the API server; never read.
    #[serde(default)]
    pub generation: Ignored,
    /// Written by the API server; never read.
    #[serde(default)]
    pub managed_fields: Ignored,
    /// Written by controllers; never read.
    #[serde(default)]
    pub owner_references: Ignored,
    /// Written by controllers; never read.
    #[serde(default)]
    pub finalizers: Ignored,
}

fn default_namespace() -> formats::Label {
    formats::Label("default".to_owned())
}

/// A value that may be written and is never read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Ignored {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ignored".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        true.into()
    }
}

/// Fields and values that are known but refused, for the `x-refused` key of a schema: `(what, code, how to mend it)`; the
/// catalogue's own fix where the last is empty.
fn refusals(table: &[(&str, Code, &str)]) -> Value {
    let entry = |(what, code, fix): &(&str, Code, &str)| {
        let fix = if fix.is_empty() { code.entry().fix } else { fix };
        ((*what).to_owned(), json!({ "code": code, "fix": fix }))
    };
    Value::Object(table.iter().map(entry).collect())
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) origin: Origin,
    pub(crate) name: ObjectName,
    pub(crate) created_s: Option<i64>,
    /// Codes of warnings that its author has silenced.
    pub(crate) silenced: Vec<String>,
    pub(crate) object: Object,
}

/// What a document describes.
#[derive(Debug)]
pub(crate) enum Object {
    HttpRoute(http_route::HttpRouteSpec),
    Backend(Box<backend::BackendSpec>),
    BackendPolicy(backend_policy::BackendPolicySpec),
    LatencySlo(latency_slo::LatencySloSpec),
    ProxyConfig(Box<proxy_config::ProxyConfigSpec>),
}

impl Object {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::Backend(_) => Kind::Backend,
            Self::BackendPolicy(_) => Kind::BackendPolicy,
            Self::LatencySlo(_) => Kind::LatencySlo,
            Self::ProxyConfig(_) => Kind::ProxyConfig,
        }
    }
}

/// A tree that is no document, with as much of its name as could be told.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) findings: Vec<Finding>,
    pub(crate) kind: Option<Kind>,
    pub(crate) name: Option<ObjectName>,
}

/// Makes a document of a tree.
pub(crate) fn read(tree: Tree) -> Result<Document, Box<Refused>> {
    let Tree { value, mut origin } = tree;
    let name = name_in(&value);
    origin.title = title(&value, name.as_ref());
    let kind = match kind_of(&value, &origin) {
        Ok(kind) => kind,
        Err(finding) => return Err(Box::new(Refused { findings: vec![*finding], kind: None, name })),
    };
    let refuse = |findings, name| Err(Box::new(Refused { findings, kind: Some(kind), name }));
    let findings = structure::check(schema::of(kind), &value, &origin);
    if !findings.is_empty() {
        return refuse(findings, name);
    }
    let read = match kind {
        Kind::HttpRoute => typed(value, &origin, Object::HttpRoute),
        Kind::Backend => typed(value, &origin, |spec| Object::Backend(Box::new(spec))),
        Kind::BackendPolicy => typed(value, &origin, Object::BackendPolicy),
        Kind::LatencySlo => typed(value, &origin, Object::LatencySlo),
        Kind::ProxyConfig => typed(value, &origin, |spec| Object::ProxyConfig(Box::new(spec))),
    };
    match read {
        Ok((metadata, object)) => Ok(Document {
            name: ObjectName::new(metadata.namespace.0, metadata.name.0),
            created_s: metadata.creation_timestamp.and_then(|text| timestamp::seconds(&text.0)),
            silenced: silenced(&metadata.annotations),
            object,
            origin,
        }),
        Err(finding) => refuse(vec![*finding], name),
    }
}

fn typed<S: DeserializeOwned>(
    value: Value,
    origin: &Origin,
    object: fn(S) -> Object,
) -> Result<(Metadata, Object), Box<Finding>> {
    match serde_path_to_error::deserialize::<_, Written<S>>(value) {
        Ok(written) => Ok((written.metadata, object(written.spec))),
        Err(error) => {
            let path = error.path().iter().fold(FieldPath::default(), |path, segment| match segment {
                serde_path_to_error::Segment::Seq { index } => path.item(*index),
                serde_path_to_error::Segment::Map { key } => path.field(key.clone()),
                _ => path,
            });
            Err(Box::new(origin.finding(Code::BadFormat, &path, error.inner().to_string())))
        }
    }
}

fn silenced(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let codes = annotations.get("penstock.dev/analyze-suppress").map_or("", String::as_str);
    codes.split(',').map(|code| code.trim().to_owned()).filter(|code| !code.is_empty()).collect()
}

/// Kinds that users of meshes know and that this version does not read.
const KINDS_ELSEWHERE: [&str; 9] = [
    "GRPCRoute",
    "InferencePool",
    "Service",
    "EndpointSlice",
    "AuthorizationPolicy",
    "Gateway",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
];

fn kind_of(value: &Value, origin: &Origin) -> Result<Kind, Box<Finding>> {
    let root = FieldPath::default();
    let refuse = |code, path: &FieldPath, message: String| Box::new(origin.finding(code, path, message));
    let Value::Object(fields) = value else {
        return Err(refuse(Code::NotADocument, &root, "this is not a document: it has no fields".to_owned()));
    };
    let text = |field: &'static str| match fields.get(field) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(refuse(Code::NotADocument, &root.field(field), format!("`{field}` is not text"))),
        None => Err(refuse(Code::NotADocument, &root, format!("`{field}` is missing"))),
    };
    let name = text("kind")?;
    let path = root.field("kind");
    if name == "List" {
        return Err(refuse(Code::KindList, &path, "a List of objects is not read".to_owned()));
    }
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let known = Kind::ALL.map(Kind::name);
        let supported = format!("Supported: {}", known.join(", "));
        let finding =
            refuse(Code::KindUnknown, &path, format!("the kind `{name}` is not read by this version"));
        return Err(Box::new(finding.with_help(if KINDS_ELSEWHERE.contains(&name) {
            format!("leave it out, or keep it in a directory of its own. {supported}")
        } else {
            format!("{}{supported}", spelling::guess(name, known))
        })));
    };
    let version = text("apiVersion")?;
    if version != kind.api_version() {
        let path = root.field("apiVersion");
        let finding =
            refuse(Code::VersionUnknown, &path, format!("{name} is not read in version `{version}`"));
        return Err(Box::new(finding.with_help(format!("write `apiVersion: {}`", kind.api_version()))));
    }
    Ok(kind)
}

fn name_in(value: &Value) -> Option<ObjectName> {
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").map_or(Some("default"), Value::as_str)?;
    Some(ObjectName::new(namespace, metadata.get("name")?.as_str()?))
}

fn title(value: &Value, name: Option<&ObjectName>) -> String {
    let kind = value.get("kind").and_then(Value::as_str);
    match (kind, name) {
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind.to_owned(),
        (None, Some(name)) => name.to_string(),
        (None, None) => String::new(),
    }
}

/// Everything that was read from a set of files.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) read: Vec<Document>,
    pub(crate) findings: Vec<Finding>,
    /// Names that belong to refused documents: references to them are not reported again.
    pub(crate) refused: Vec<(Option<Kind>, Option<ObjectName>)>,
}

impl Documents {
    /// Reads all files, in the order given.
    pub(crate) fn from(sources: &[crate::source::Source]) -> Self {
        let mut documents = Self::default();
        for source in sources {
            match crate::yaml::read(source) {
                Ok(trees) => trees.into_iter().for_each(|tree| match read(tree) {
                    Ok(document) => documents.read.push(document),
                    Err(refused) => {
                        documents.findings.extend(refused.findings);
                        documents.refused.push((refused.kind, refused.name));
                    }
                }),
                Err(findings) => {
                    documents.findings.extend(findings);
                    documents.refused.push((None, None));
                }
            }
        }
        documents
    }

    /// Whether an object of this name may be among those that could not be read.
    pub(crate) fn may_be_refused(&self, kind: Kind, name: &ObjectName) -> bool {
        self.refused.iter().any(|(refused_kind, refused_name)| {
            refused_kind.is_none_or(|refused| refused == kind)
                && refused_name.as_ref().is_none_or(|refused| refused == name)
        })
    }
}

#[cfg(test)]
mod tests;
