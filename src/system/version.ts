// The version of this build, out of package.json. The bundle of the image carries that file inside.
import manifest from '../../package.json' with { type: 'json' };

export const { version } = manifest;
