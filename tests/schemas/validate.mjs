// Reads a JSON list of objects from standard input; writes the fault of each, or null. Each kind comes from a package.
const PACKAGES = {
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

async function fault(object) {
  const [group, version] = object.apiVersion.split("/");
  try {
    const models = await import(`${PACKAGES[group]}/${group}/${version}`);
    new models[object.kind](object).validate();
    return null;
  } catch (error) {
    return error.message;
  }
}

let text = "";
for await (const part of process.stdin) text += part;
console.log(JSON.stringify(await Promise.all(JSON.parse(text).map(fault))));
