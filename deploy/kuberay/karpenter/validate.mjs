// Check manifests (a JSON list on standard input) against the CRDs that @kubernetes-models/karpenter ships.
import { readFileSync } from "node:fs";

for (const item of JSON.parse(readFileSync(0))) {
  const models = await import(`@kubernetes-models/karpenter/${item.apiVersion}`);
  new models[item.kind](item).validate();
  console.log(`${item.kind} ${item.metadata.name} is valid`);
}
