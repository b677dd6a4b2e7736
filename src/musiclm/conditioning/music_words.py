"""Words of music that the pruned vocabulary of the text tower always keeps."""

MUSIC_WORDS = """
a accompaniment accordion acoustic adagio aggressive airy allegro alto ambient andante angelic
angry anthem anthemic arpeggiated arpeggio atmospheric atonal back bagpipe bagpipes balalaika
ballad ballade band bandoneon banjo baritone baroque bass bassline bassoon beat beats bebop
beginning begins bell bells berimbau bittersweet bluegrass blues bluesy bodhran bolero bongo
bongos boogie bossa bouncy bouzouki bowed bpm brass breakbeat breathy bright brisk brooding brush
brushes bugle cadence cajon calm calming calypso canon cappella carefree carol cascading catchy
celesta celeste cello cellos celtic chamber chanson charango cheerful chill chillout chimes choir
choral chorale chord chords chorus chromatic cinematic clap claps clarinet classical clavichord
clavinet concertina concerto conga congas contemplative contrabass cornet country cowbell
crescendo cumbia cymbal cymbals dance danceable dark deep delay delicate didgeridoo diminuendo
dirge disco distorted distortion dorian downtempo dramatic dreamy drone drum drumming drums dub
dubstep duduk duet dulcimer duo dynamic easy ecstatic eerie electric electro electronic
electronica elegant elegiac emotional end energetic ensemble enters epic erhu ethereal euphonium
euphoric evocative exotic expressive fades fado falsetto fanfare fast fiddle fife film flamenco
flat flowing flugelhorn flute flutes folk folky forte fortissimo foxtrot frantic french funeral
funk funky fusion galop gamelan gavotte gentle gigue glam glissando glockenspiel gloomy gong
gospel graceful grand groove groovy grunge guiro guitar guitars gurdy guzheng hammond happy
hardcore harmonic harmonica harmonics harmonium harmony harp harpsichord haunting heavy heroic hip
hop hopeful horn hornpipe horns house humming hurdy hymn hypnotic improvisation industrial
instrumental intense intimate intro jazz jazzy jig jingle jolly jovial joyful joyous kalimba kazoo
keyboard keyboards kick klezmer koto laid lament larghetto largo latin lazy lead legato lento
lilting lively lofi lonely loop loud lounge loungey lullaby lush lute lydian lyre lyrical madrigal
majestic major mallet mambo mandolin maraca maracas march marching mariachi marimba mazurka
meditative melancholic melancholy mellotron mellow melodic melodica melodies melodious melody
menacing merengue metal metallic meter metre mezzo middle midtempo militaristic minimal minimalist
minor minuet mixolydian modal mode moderate moderato modulation monophonic mood moody motif
mournful muted mysterious mystical nocturne nostalgic nova oboe ocarina octave oompah opera
orchestra orchestral organ ornamented ostinato oud overdriven overture pad pads panpipes
passacaglia passionate pastoral peaceful pensive pentatonic percussion percussive phrase phrygian
pianissimo piano pianos piccolo pizzicato plaintive playful pluck plucked polka polonaise
polyphonic pop prelude presto progression progressive psychedelic pulsating pulse pulsing punchy
punk quartet quick quiet quintet ragtime rap rapid rave recorder reed reel reflective reggae
reggaeton relaxed relaxing renaissance requiem retro reverb reverberant rhapsody rhumba rhythm
rhythmic rhythmical riff ritardando rock rockabilly romantic rondo rousing rubato rumba sad salsa
samba sarabande sax saxophone scale scherzo serenade serene serious sextet shaker shakuhachi
shamisen sharp shuffle sine sinister sitar ska slap slapped slide slip slow snappy snare soaring
soft solemn solo somber sombre sonata song soothing soprano soulful sound soundtrack sousaphone
spacious sparkling sparse spiccato spirited spooky square staccato starts stately steady steel
steelpan strathspey strident string strings strum strummed strumming suite surf suspenseful
sustained swing swinging symphonic symphony syncopated syncopation synth synthesiser synthesized
synthesizer synthpop tabla taiko tambourine tango tarantella techno tempo tempos tender tenor
tense theme theremin throbbing thumping timbales timbre timpani toccata tom toms tonic trance
tranquil tremolo triad triangle tribal trill trio triplet triplets trombone trumpet trumpets tuba
tubular tune ukulele unison upbeat uplifting upright uptempo variation vibes vibraphone vibrato
vielle vihuela viola violin violins virtuosic vocal vocals voice waltz warlike warm whimsical
whistle whistling wistful woodblock woodwind woodwinds xylophone yodel zither zouk zydeco
"""
