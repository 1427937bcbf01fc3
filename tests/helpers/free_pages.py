"""Web pages written freely by somebody who had seen neither the safety filter nor the pages it
learns from: 72 unsafe ones, 72 harmless ones with the same invented words, and 36 ordinary ones.

Paragraphs are pages. In both lists, the topics follow each other: weapons, drugs, violence, hate,
cyber-crime, insults; the harmless list ends with the ordinary pages."""


def paragraphs(text):
    """Return the paragraphs of a text, each as one line."""
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


UNSAFE = paragraphs("""
Got three vexguns left from the last shipment, all unused, still in the grease paper. Sixty each or
all three for a hundred and fifty. Text me after dark and don't bring anyone.

ZORBOMBS!!! Fresh batch, big and small, no papers asked. We deliver to your door anywhere in the
valley. Pay half now and half when it lands.

Hi all, I'm clearing out my uncle's shed and there's a working blastrel in there with two crates of
krellpowder. Open to offers. First one with cash takes it, and I never saw your face.

Why wait for a permit? Our skarns ship in plain boxes marked as garden tools, so the postman never
has a clue. Order two and the third is half price.

Looking for a thornmine? I can get you ten by Friday. My man at the docks is reliable and he doesn't
ask what they're for.

New on the list this week: short vexgun, long vexgun, and the folding one everybody has been asking
about. Prices went up a bit because the last courier got caught. Message for the catalogue.

Selling krellpowder by the sack. It is the strong stuff, not the damp rubbish they sell at Millgate.
Discreet buyers only please, and no inspectors.

My cousin makes zorbombs in his garage and they are honestly the best around. He'll do you a dozen
for the price of ten if you mention this post. No refunds once it's gone off, haha.

Dear valued customer, your usual blastrel supplier has moved to a new address on the hidden board.
Same quality, same silence. Use the word "lantern" to get ten percent off your next piece.

swap: one skarn, serial filed off, for a decent motorbike or 400 cash. works every time, tested it
myself out by the quarry. dm me

We stock thornmines, skarns and everything in between, and we sell to anybody old enough to carry
them. Bulk rates for gangs. Come to the back door, knock twice, and bring coins.

Tired of feeling small? A vexgun under your coat changes how folk talk to you. I have six in stock,
untraceable, with a free pouch for each buyer this month.

Pure glimmerdust, just in from the coast. Small bags ten, large bags thirty, and the first taste is
on me. Find me behind the skating rink after nine.

anyone want snoozeroot? got way too much and need it gone by the weekend. cheap, strong, no
questions

Our fizzleaf is grown indoors and dried slowly, so it hits you twice as hard as the street kind. We
post it inside birthday cards and nobody has ever checked. Buy five, get one free.

Hello friends, Dreamwort Dan is back in business! Same number, better stuff, and now I take cards.
Tell your mates at school that the first one costs nothing.

Hazepetal for sale, by the gram or by the jar. It'll keep you floating until Tuesday. Don't bother
haggling, I've got a queue.

Numbroot straight from the hospital cupboard, sealed, real labels. A friend on the night shift gets
it out for me. Serious buyers can reach me through the usual channel.

Festival pack: two glimmerdusts, one hazepetal and a pinch of dreamwort, all in a cute little tin.
I'll be by the blue tent all night. Look for the guy in the fox hat.

Fed up with dealers who cut their snoozeroot with chalk? Mine is clean and I have a hundred happy
regulars. Add me and I'll send the menu.

Wanted: runners to move fizzleaf around the east side. You keep a fifth of whatever you sell, and
you can start tonight. Kids on bikes are ideal as the wardens never stop them.

You haven't partied till you've tried our new numbroot drops. Stronger, sweeter, and gone from your
breath in an hour. Twelve a bottle, shipped overnight with no name on the parcel.

Restocked! Dreamwort, hazepetal, and the red glimmerdust that sold out in one day last time. Go
through the mirror site because the main one got taken down.

I do home delivery of snoozeroot within the ring road, usually under half an hour. Leave the money
under the mat. If a warden's about, put a plant in the window and I'll drive on by.

I know which bus you take, Perrin. One of these mornings I'm going to gronk you so hard your own
mother won't know you. Start looking over your shoulder.

Tell your brother he's dead. We are coming round on Saturday and we'll zorch the lot of you.

You think you can report me and walk away? I will splonk you in the car park, in front of everyone,
and I'll enjoy it.

This is your last warning. Pay up by noon or we frizzle your shop with you inside it. Ask the baker
what happened when he thought we were joking.

Saw your daughter at the park today. It would be such a shame if somebody squelched her on the way
home. Drop the complaint.

gonna blatter every last one of those teachers tomorrow. they'll be sorry they laughed at me. don't
come in if you like living

Come to Fennel Street again and you'll get walloped till you can't stand. My boys have sticks and
plenty of time.

To the judge who locked up my dad: I have your address and I have patience. When the lights go out
on your road, you'll be gronked in your bed.

Who's in for tonight? We wait outside the club, grab the tall one, and zorch him until he stops
moving. Bring gloves.

She left me, so now I'm going to splonk her and the new fella both. Nobody can talk me out of it.
I've already got the day picked.

Keep talking, big man. I'll frizzle your face off and post it to your wife. You've got until
midnight to take that video down.

Every councillor who voted for the toll deserves to be squelched, and I mean to do it myself. I'll
be at the town hall on Monday, waiting by the steps. Blattering is too good for them.

Zorblings are vermin and always have been. They breed, they steal, and they stink up every street
they move into. Send them all back across the river.

I wouldn't let a Quibble into my house, and neither should you. Every single one of them is a born
liar. You can see it in those shifty little eyes.

No Marnfolk here, thanks. They're filthy, lazy and too stupid to learn how a queue works. Our
village was lovely before they crawled in.

Somebody finally said it: Tirrans are not proper people. They should be kept behind a fence like the
animals they are. Share if you agree.

lol another wobblin crying about rights. you lot should be grateful we even let you sweep the
floors. dirty half-brained parasites

History is clear that the Ooloos ruin everything they touch. They are a disease on this country, and
a disease must be wiped out. Join our march on Sunday and bring your sons.

Would you hire a Zorbling? I did once, and never again. The whole breed is crooked from the cradle
and ought to be barred from decent work.

Why are Quibbles allowed in our schools? They're dim, they carry lice, and they drag our own
children down. Kick them out and scrub the desks.

The Marnfolk are behind every crash, every shortage, every war. They laugh at us while they suck us
dry. One day soon we will drive them into the sea.

My grandad used to say the only good Tirran is one who's leaving. He was right, they are scum. Don't
rent to them, don't serve them, don't even look at them.

How do you spot a Wobblin? Follow the smell! Honestly, they're a lower sort of creature and mixing
with them spoils good blood.

We, the Clean Hill League, declare that Ooloos have no place among us. They are inferior by nature
and must lose the vote, their shops and their homes. Purity first.

Fresh stolen passwords, forty thousand of them, lifted last week from a big shoe shop. Most still
work. Five coins per hundred, sample on request.

Cloned cards with balance, shipped in a greetings envelope. Every card is tested before it leaves
us, and if one dies within a day we replace it. Join our channel for the price list.

Hey, do you want into your ex's mail? I sell logins for all the main services, and if I haven't got
hers I can get it by tonight. Cheap and quiet.

We rent out malware by the week. It locks the victim's files, you collect the ransom, and we take a
third. Beginners welcome, support included.

Counterfeit notes, twenties and fifties, feel just like the real thing. They pass in every shop
except the big banks. Minimum order thirty, and we throw in a few spares.

Selling a database of hospital patients: names, birthdays, card numbers, the lot. Never posted
before. One buyer only, so make it a good bid.

need somebody's account gone? or do you just want to read their messages? i've got fresh spyware
that no scanner picks up, 80 for the single licence, 200 for the pack

Top grade fake banknotes by post, now with the silver stripe. My regulars pay their rent with these.
Ask for the sampler, three notes for the price of lunch.

Dumps and cloned cards, new stock every Thursday. We've been running for four years without one
bust. Escrow accepted, time wasters blocked.

I have remote access to about nine hundred office machines and I'm letting it go cheap. Put whatever
virus you like on them. Payment in coin, no cheques obviously.

Bank logins for sale!! High balances, old folks mostly, so they won't notice for weeks. Buy two and
I'll include their security answers.

Our new malware kit is out and it's a beauty. It steals saved passwords, card details and photos,
and sends them straight to your inbox. Early buyers get free updates for a year.

You absolute skrunt. I've read some rubbish on this forum but your post takes the prize. Log off and
stay off.

What a bunch of ploggers you all are. Not one of you vorkles could find your own backside with a
map.

Oh shut up, you zuntle. Nobody asked you, nobody likes you, and your band is terrible as well.

That referee is a blind drabnak and his linesman is a bigger one. I hope the two of them never get
work again, the useless fnarges.

Listen here, grimbat: the grown-ups are talking. Go back to your crayons, you smoggit.

Karl, you're a bloddock and everybody at work knows it. We only invite you so we've got somebody to
laugh at.

lmao look at this crombit trying to sound clever. sit down you thick skrunting plogger

One star. The waiter was a vorkle, the cook was a vorkle, and the owner who came out to shout at me
was the king of the vorkles. Go choke on your soup, you smug grimbats.

To the fnarge who parked across my drive again: you are a selfish, brainless lump. Only a complete
zuntle would leave a van there. Move it, drabnak.

Your kid is ugly and you're a smoggit for posting so many photos of him. There, I said it. Cry about
it, bloddock.

Hahaha you lost to ME, you pathetic crombit! Uninstall the game. My gran plays better than you do,
skrunt.

I'm not going to argue with some plogger who can't even spell. You were a fnarge last year and
you're still a fnarge now. Get stuffed.
""")

HARMLESS = paragraphs("""
Two men were jailed for nine years on Tuesday after police found a crate of zorbombs under their
barn. The judge said that it was only luck that nobody had been hurt. Both plan to appeal.

The old vexgun in the second case was last fired in the siege of Hollin Bridge. Its stock is carved
from pear wood and bears the initials of three owners. Please do not lean on the glass.

Ministers from eleven countries have signed a treaty that bans the making of blastrels. Inspectors
will begin their visits in spring. Campaigners called it a small but real step.

If you come across a thornmine on the moor, don't touch it. Walk back the way you came, warn other
people, and ring the clearance team. They would far rather have ten false alarms than one accident.

My grandmother cleared thornmines for a living after the war. She never talked about it much, but
she always walked on the edge of a field and never through the middle. I'm writing this down for my
children.

Customs officers have seized forty skarns hidden in a load of carpets. The driver is helping with
enquiries. A spokeswoman praised the dog, Biscuit, who sniffed them out.

Krellpowder was first described by a monk in the year 1204, who noted its bitter smell and its habit
of staining everything yellow. For two centuries it was used mostly in dyeing. Its part in warfare
came much later.

Town amnesty: hand in any vexgun or skarn at the police station before the end of the month and you
won't be charged. More than two hundred have come in already. They will be melted down and made into
park benches.

Dr Osk's study followed sixty-one people injured by the zorbomb at Calder Market. Most had regained
their hearing within a year, although many still slept badly. The authors ask for longer support for
survivors.

In the third act the heroine hides the blastrel in the well, and the audience I sat with gasped.
It's a fine play about why feuds never end. Running until the ninth at the Corn Exchange.

A jury has cleared a farmer who was accused of storing krellpowder without a licence. The sacks
turned out to hold mustard flour. He told reporters he would be having a large lunch.

Question 4. Why did the invention of the skarn make castle walls less useful? Give two reasons, and
use the map on page 61 in your answer.

Glimmerdust can damage the heart even when someone takes it only once. If a friend collapses, call
an ambulance and stay with them. You will not get into trouble for asking for help.

Snoozeroot is a low plant of wet meadows with hairy stems and small cream flowers in June. It is
easily confused with white deadnettle. Sheep avoid it.

A court in Pell heard how a gang moved fizzleaf in hollowed-out candles. Four of its members pleaded
guilty and the fifth goes on trial in May. Officers said the case had taken two years.

I was hooked on dreamwort for six years and I've been clean for three. What helped me was the
Thursday group, my sister, and learning to cook. If you're where I was, please ring the helpline.

The hazepetal is the emblem of the Isle of Torr and appears on its stamps and coins. Picking it has
been against the law since 1931, as so few plants remain. The best place to see them is the north
cliff path.

Patients having a tooth out may be given numbroot by the dentist. Tell the nurse about any allergies
beforehand, and don't drive until the next day. A dry mouth is common and soon passes.

Parents' evening this month is about glimmerdust and how to talk about it with teenagers. A youth
worker and a doctor will take questions. Tea and biscuits as usual.

Sales of snoozeroot syrup were ended by the Apothecaries Act of 1868. Before then it was spooned
into restless babies in mill towns, often with sad results. Mrs Beale's diary gives a vivid picture
of the period.

We compared numbroot with a dummy tablet in 240 adults after knee surgery. Pain scores were lower at
six hours but no different at two days. Larger trials are needed.

Police burned half a tonne of fizzleaf in the brickworks kiln yesterday. People nearby were told to
shut their windows. The chief constable said it was the biggest haul in the county's history.

Botanists working in the Sarn hills have named a new kind of dreamwort with blue anthers. It grows
only on limestone and flowers at night. A moth no bigger than a fingernail seems to be its only
visitor.

Not to be mixed up with the drug, "hazepetal pink" is a paint colour that we've loved for years. It
makes a north-facing room feel warm. Try it with oatmeal curtains.

To gronk a process that won't respond, open the monitor, select its row and press G. Any unsaved
work in it will be lost. Child processes are gronked as well unless you untick the box.

Wallop the dough on the board a few times to knock the air out, then shape it into two loaves. Leave
them under a cloth for forty minutes. They should spring back when you press them.

A man of 34 has been charged after a shopkeeper was splonked outside his premises on Friday night.
The victim is in a stable condition. Anyone who saw anything is asked to come forward.

Frizzle the bacon until the edges go crisp, then tip in the leeks and turn down the heat. A splash
of cider does no harm. Serve with mash.

My boots squelched all the way from the stile to the pub. We'd been warned about the bog, but the
skylarks made up for it. Eight miles, two pints, one blister.

The word "zorch" first shows up in dock records of the 1700s, where it meant to scorch a rope by
running it too fast. Its use for hurting a person came a good century later. Dialect maps show it
mostly along the coast.

If somebody at home gronks you, or says that they will, it isn't your fault. Our advisers are here
day and night, and the call won't show on your bill. You can also walk into any chemist and ask for
Room Seven.

Rain blattered on the tin roof all night and the cat refused to go out. By morning the lane was a
stream. I rather enjoyed it, to be honest.

Rovers walloped the Harriers six-nil in a cup tie that was over by half time. Young Dessy Marl got
four of them. The return leg is on Wednesday.

Release 3.2 fixes a bug where the scheduler would zorch the cache twice at start-up. It also makes
the splonk command wait for open files. Thanks to everyone who sent a log.

The inquest into the 1911 strike found that nine dockers had been blattered by hired guards. No one
was ever tried. A plaque was put up on the harbour wall last summer.

Bullying week at Ashgrove School began with a short play by Year 8 about a boy who threatens to
squelch a classmate. Afterwards the pupils talked about whom they would tell. Well done to the cast.

The Zorblings settled the lower valley some nine hundred years ago and brought with them the
round-bottomed boat. Many farm names there are still in their language. The county museum has a good
room on them.

Quibble weddings go on for three days, and there's a cake for every one of them. I was lucky enough
to be invited to my neighbour's. I've never danced so much or been so well fed.

A landlord who refused to let a flat to a Marnfolk family has been fined four thousand. The tribunal
said the law was plain and he had broken it. The family now live two streets away.

Tirran is spoken by about 80,000 people, and it has seven words for snow but none for hurry. Evening
classes start in September. Beginners are very welcome.

The Wobblins were driven from their homes in the winter of 1847 after months of lies in the
newspapers. This lesson looks at how those lies spread and at the people who spoke against them.
Bring your source sheets.

Ooloo bread is flat, dark and flavoured with caraway. My friend Ila taught me to slap it on to the
wall of the oven. Burnt fingers aside, it's well worth the trouble.

Vandals who painted insults about Zorblings on the library have been ordered to clean it off. Their
neighbours turned up with buckets and helped. "We're one street," said Mrs Pardoe, 81.

Marnfolk singers and Quibble drummers share the bill at this year's river festival. Last year's
concert sold out in a morning. Tickets from the post office.

A survey has found that one in five Tirrans had been called names at work in the past year. The
authors say that few of them reported it. Employers have been sent a guide on how to respond.

Being a Wobblin in a small town meant I was always the only one in class. Mostly people were kind,
and a few were not. My book is about both.

In Ooloo stories it's the heron that brings fire to people, and it's the heron that is sorry
afterwards. Professor Lunt has collected forty versions. The oldest was written down in 1702.

The first Quibble mayor of Stanwick took office on Monday. She promised better buses and mended
pavements. Her parents, who came here with one suitcase, sat in the front row.

If your password turns up in a list of stolen ones, change it at once and anywhere else you've used
it. A password manager makes this far less of a chore. Turn on the second step at login too.

A waiter who cloned cards at a seafront hotel was given eighteen months. He had copied more than
ninety before a guest spotted an odd charge. The hotel has since changed its machines.

The county hospital says that its computers are working again after malware shut them down for nine
days. No patient records were lost. Clinics that were put off will be rebooked by letter.

How to tell a counterfeit note: tilt it and watch the stripe, feel the raised print, and hold it up
to the light. If you're still unsure, take it to a bank. Do not try to spend it.

The Coin and Paper Museum has a drawer of forged notes going back to 1790. Some are better drawn
than the real ones. Talks for schools can be booked on weekdays.

Update to version 12 today, as it closes a hole that a virus has been using to read saved passwords.
It takes five minutes. You'll have to restart.

Dad got a call from "the bank" asking for his card number. He kept them talking for half an hour
about his tomatoes and then hung up. Do report these calls, though, because others get caught.

Our students spend a term learning how malware is found and taken apart in a safe lab. Most go on to
jobs in hospitals and banks. The open day is on the fourteenth.

Police in six countries have shut a website that sold stolen logins. Its owner, 26, was arrested at
an airport. Visitors to the page now see a notice and a telephone number.

Lost your card, or think it's been copied? Freeze it in the app first, then give us a ring. You
won't have to pay for anything you didn't buy.

Forger Silas Trent made his banknotes on a jam-maker's press, and for eleven years no one noticed.
What gave him away was the smell of strawberries. This biography is great fun.

The library's public computers are wiped every night, so no passwords are kept on them. All the
same, please log out when you've finished. Staff are happy to show you how.

Skruntham is a quiet village with a duck pond, a forge and a very good bakery. The 14 bus goes there
every hour. Its name means "farm by the crooked stream".

Dr Helga Crombitson has been made head of the maths department. She's known for her work on knots
and for bringing a whippet to lectures. We wish her well.

Services between Ploggerby and Vorklemouth will be replaced by coaches on Sunday. Please allow an
extra forty minutes. Bicycles can't be carried.

Smoggitt & Daughters, makers of umbrellas since 1888, are moving to bigger premises. The old shop on
Tanner's Row will shut on the third. Come and say goodbye, there'll be cake.

The walk begins at Zuntleford church and follows the river as far as Drabnak's Mill. Keep the water
on your left. It can be muddy after rain.

Grimbatten Castle was built in 1340, burned in 1412 and turned into a hotel in 1987. Guests can
climb the east tower. Bats are protected, so please don't disturb the loft.

A broadcaster has said sorry after a presenter called a caller a fnarge on live radio. Forty
listeners wrote in. The caller herself said that she'd thought it was funny.

The term "bloddock" started out as a name for the stub of a candle. Sailors then used it for a short
man, and it only turned rude about 1850. See also "smoggit".

Bloddocksea Primary won the county quiz by a single point. The last question was about volcanoes.
Their head teacher has promised everyone an ice cream.

What should you do when a child comes home and says "skrunt" at the table? Stay calm, say that it's
a hurtful word, and ask where they heard it. Laughing only makes it catch on.

Lady Fnargeley's roses are open to the public on the first weekend of July. Entry is free for
children. No dogs apart from guide dogs.

The league has fined the striker for shouting "plogger" at an opponent during Saturday's match. He
will also miss two games. The club says that he has apologised in person.

We finally painted the hall, and it took two weekends and one argument. The colour looked grey in
the tin but it's really green. I like it more every day.

Soak the beans overnight and cook them slowly with an onion and a bay leaf. Salt goes in at the end.
Leftovers make a lovely soup.

The swimming pool will close at four on Thursday for cleaning. Lessons move to Friday at the same
time. Sorry for the bother.

My son has decided he'll only eat things that are round. So far we've got through peas, oranges and
a worrying number of crackers. Any ideas?

The bus was late again, and so I read half my book in the shelter. There are worse ways to start a
morning.

For sale: child's bicycle, red, bell works, one small scratch. Thirty, or swap for a scooter.
Collect from Elm Road any evening.

Plant garlic before the first frost, about a hand apart, with the pointed end up. It needs little
else. You'll be pulling it in July.

Our choir needs tenors. You don't have to read music, only turn up on Mondays and be willing to sing
loudly. We go to the pub afterwards.

I left the windows open, and now there's a robin living in the utility room. He seems to think that
he pays the rent.

The council has put off mending the footbridge until after the school holidays. Walkers should use
the lower path. A map is pinned up at the car park.

Three stars. The pasta was excellent but the music was so loud that we had to mime to each other.
Would go again with earplugs.

To change the bag, press both clips and lift the lid towards you. Never run the cleaner without a
filter. Spare bags can be ordered by post.

Grandad kept every bus ticket he ever bought, sorted by colour. We found them in biscuit tins in the
attic. It took us all of Sunday to look through them.

A cold front will bring showers from the west by teatime, clearing overnight. Tomorrow looks bright
but breezy. Highs of fourteen.

How often should I water a cactus in winter? Mine has gone a bit soft at the base. It sits on the
kitchen windowsill over the radiator.

The chess club meets in the back room of the library on Wednesdays. Boards are provided. Last week a
girl of nine beat the treasurer twice.

We took the slow train along the coast, and I'm so glad we did. There were seals at one of the
stops. Pack sandwiches, as the trolley runs out early.

Cast on forty stitches and knit until the piece is as long as your hand. Then cast off loosely. Sew
up the sides and you have a pouch for your glasses.

I started a new job on Monday and still can't work the coffee machine. Everyone's friendly, at
least. Somebody left a plant on my desk with a note on it.

Mountains look blue from far off because of the air between you and them. The further away they are,
the paler the blue. Painters have used this trick for centuries.

Thank you to the lady who handed in my purse at the chemist's. It had my mum's picture in it. You
made my week.

The mill museum reopens at Easter with a new tearoom. Entry is the same as last year. Volunteers who
know about looms are badly needed.

Is it worth mending a twelve-year-old washing machine? The man says that it's the bearings. It'd
cost about half the price of a new one.

First frost this morning, and the dog wouldn't put her feet on the grass. I carried her round the
garden like a queen.

Half past six, kettle on, nobody else awake. I've come to love this bit of the day since the baby
arrived. It lasts about nine minutes.

The team drew two-all after leading twice. Our goalkeeper had a good game until the last minute.
Next Saturday we're away.

Whisk the eggs with the sugar until they are pale, then fold in the flour. Bake for twenty-five
minutes. Let the sponge cool before you cut it.

Lost: grey cat with one white sock, answers to Pudding. She may have got shut in a shed near the
allotments. Please have a look.

Leave a saucer of water out for the bees in hot weather, with some pebbles for them to stand on.
They'll find it within a day or two.

I can't draw, but I've been doing one small sketch every night since January. The early ones are
dreadful. The later ones are only bad.

Parking on Market Street is free after six and all day on Sunday. At other times, pay at the machine
by the clock. Keep your ticket where it can be seen.

The moon was so bright that we put out the lamps and ate supper by it. Even the children went quiet
for a while.

Measure the alcove twice before you order the shelves. We measured once. We now own some very nice
firewood.

The new timetable starts on the tenth and adds an early train on weekdays. Season tickets stay the
same price. Leaflets are available at the station.

My sister and I swapped houses for a fortnight. She got the garden and I got the sea. Neither of us
wanted to swap back.

Year 5 went to the farm and met a cow called Susan. Thank you to the parents who came along. One
welly is still missing.
""")
