// node nag.js template.json ...: every finding of every pack, as JSON lines {template, rule, resource, text}.
// The rules look at the template that CloudFormation gets, resolved. cdk-nag 3 takes no suppressions from a
// template's metadata: the register has them, and Python matches them.
const path = require('path');
const { App, Stack } = require('aws-cdk-lib');
const { CfnInclude } = require('aws-cdk-lib/cloudformation-include');
const nag = require('cdk-nag');

const PACKS = ['AwsSolutionsChecks', 'HIPAASecurityChecks', 'ServerlessChecks'];

for (const templateFile of process.argv.slice(2)) {
  const stack = new Stack(new App({ analyticsReporting: false }), 'Stack');
  new CfnInclude(stack, 'Template', { templateFile });
  for (const pack of PACKS) {
    for (const { ruleName, description, violatingResources } of new nag[pack]().validateScope(stack).violations) {
      for (const { constructPath } of violatingResources) {
        const resource = constructPath.replace('Stack/Template/', '');
        const template = path.basename(templateFile);
        console.log(JSON.stringify({ template, rule: ruleName, resource, text: description }));
      }
    }
  }
}
