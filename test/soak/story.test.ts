import { tellStory } from '../guest/story.ts';

tellStory(3);
