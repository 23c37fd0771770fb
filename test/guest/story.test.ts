import { tellStory } from './story.ts';

// That of three VMs is test/soak's.
tellStory(1);
